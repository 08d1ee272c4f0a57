"""Which images validate: by the names of folders and files, or by content.

N images.
"""

import hashlib
import os
import re
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool

from moe import progress
from moe.config import ConfigError
from moe.workloads.data_cache import identity, kept, key_of

# Words of names, in the order in which they are taken.
TRAIN = ('train', 'training')
VAL = ('val', 'validation', 'valid', 'test')

_FRACTION = 'config.data.source.val_fraction'
_WORD = re.compile(r'[a-z]+')
_DIGEST = 8  # bytes of a hash that are kept


def split_named(names: Sequence[str]) -> tuple[str, str] | None:
    """Returns the names of the training and of the validation part.

    Args:
      names: names of folders, or splits.

    Returns:
      None if there are not both.
    """
    found = (
        next((word for word in words if word in names), None)
        for words in (TRAIN, VAL)
    )
    train, val = found
    return None if train is None or val is None else (train, val)


def split_word(path: str) -> str | None:
    """Returns the word of a split in a file's name, or its folder's; or None.

    >>> split_word('cifar10-train.array_record-00000-of-00001')
    'train'
    >>> split_word('default/validation/0000.parquet')
    'validation'
    """
    folder, name = os.path.split(path)
    words = [*_WORD.findall(name.lower()), os.path.basename(folder)]
    return next((word for word in words if word in (*TRAIN, *VAL)), None)


def validates(data: bytes, fraction: float) -> bool:
    """Whether an image is among those to validate on, by its bytes alone.

    Args:
      data: the encoded image; the same bytes are always in the same part.
      fraction: share of all images that validate.
    """
    return _share(_digest(data)) < fraction


def by_content(
    paths: Sequence[str],
    count: int,
    read: Callable[[int], bytes],
    fraction: float,
) -> tuple[Bool[np.ndarray, 'N'], str]:
    """Tells which images validate; hashes of them are kept in the cache.

    Args:
      paths: the files that have the images.
      count: N.
      read: returns an encoded image.
      fraction: share of all images that validate, about.

    Returns:
      Whether each validates, and a hash of all of them.

    Raises:
      ConfigError: if there would be none in a part.
    """

    def build(folder):
        made = np.zeros((count, _DIGEST), np.uint8)
        with progress.shown('reading images', count, 'images') as reach:
            for i in range(count):
                made[i] = np.frombuffer(_digest(read(i)), np.uint8)
                reach(i + 1)
        made.tofile(folder / 'digests')
        return {}

    folder, _ = kept(key_of('images', 1, identity(paths), count), build)
    digests = np.fromfile(folder / 'digests', np.uint8)
    rows = digests.reshape(-1, _DIGEST)
    val = np.array([_share(row.tobytes()) < fraction for row in rows], bool)
    if not val.any() or val.all():
        allowed = f'a share of at least one image, and not all of {count}'
        raise ConfigError(_FRACTION, fraction, allowed)
    return val, hashlib.sha256(digests.tobytes()).hexdigest()


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:_DIGEST]


def _share(digest: bytes) -> float:
    return int.from_bytes(digest, 'big') / 256**_DIGEST

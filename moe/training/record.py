"""The record of a checkpoint: step, position in the data, checksums.

It is one file of the checkpoint, `data/metadata`: a line of JSON, and the
SHA-256 of that line. Orbax writes it with the arrays, and renames the folder
that has both: a checkpoint without a record was never whole.
"""

import dataclasses
import errno
import hashlib
import json
import operator
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from moe.config import ConfigError
from moe.training.checksum import leaf_names

# Of checkpoints; that of config.json is another. It goes up when an earlier
# checkpoint can no longer be read as it is.
FORMAT = 3

FILE = 'data/metadata'
# Orbax's own JSON: what it always writes, and what it may.
_ALWAYS = ('_CHECKPOINT_METADATA', 'state/_METADATA')
_MAYBE = ('state/_sharding', 'state/array_metadatas/*')


class Leaf(NamedTuple):
    """What a record has of one array.

    Attributes:
      dtype: name of its dtype, such as 'float32'.
      shape: its global shape.
      checksum: the two sums of `moe.training.checksum`, 16 hexadecimal digits.
    """

    dtype: str
    shape: tuple[int, ...]
    checksum: str


class Record(NamedTuple):
    """What a checkpoint has beside its arrays.

    Attributes:
      step: number of steps taken.
      position: state of the data iterator, JSON.
      leaves: the arrays by name, such as 'params/head'.
    """

    step: int
    position: Any
    leaves: dict[str, Leaf]


class Damage(Exception):
    """A checkpoint that is not whole, or not of this model.

    Args:
      folder: the checkpoint's folder.
      place: the file or leaf that shows it.
      reason: what is wrong there.
      of_another_model: whether it is whole, but of another model.
    """

    def __init__(
        self,
        folder: str,
        place: str,
        reason: str,
        of_another_model: bool = False,
    ):
        kind = 'of another model' if of_another_model else 'damaged'
        text = ' '.join(f'{folder} is {kind}: {place} {reason}'.split())
        super().__init__(''.join(c if c.isprintable() else '?' for c in text))
        self.plain = (folder, place, reason, of_another_model)
        self.folder = pathlib.Path(folder)
        self.of_another_model = of_another_model


def describe_leaves(tree: Any) -> dict[str, Leaf]:
    """Returns names, dtypes and shapes of the leaves, without checksums.

    Args:
      tree: arrays, or `jax.ShapeDtypeStruct`.
    """
    leaves = zip(leaf_names(tree), jax.tree.leaves(tree), strict=True)
    return {name: Leaf(str(x.dtype), x.shape, '') for name, x in leaves}


def with_checksums(
    leaves: Mapping[str, Leaf], checksums: np.ndarray
) -> dict[str, Leaf]:
    """Returns leaves with the checksums of `device_checksums`.

    Args:
      leaves: the leaves by name.
      checksums: uint32 [leaves, 2], in their order.
    """
    sums = zip(leaves.items(), np.asarray(checksums), strict=True)
    return {
        name: leaf._replace(checksum=f'{first:08x}{second:08x}')
        for (name, leaf), (first, second) in sums
    }


def read_record(folder: pathlib.Path) -> Record:
    """Reads the record of a checkpoint.

    Args:
      folder: the checkpoint's folder.

    Returns:
      The record, as it was written.

    Raises:
      Damage: if it is missing or not whole.
      ConfigError: for a file that may not be read, or of another format.
    """
    try:
        raw = (folder / FILE).read_bytes()
        more = (path for pattern in _MAYBE for path in folder.glob(pattern))
        for path in (*map(folder.joinpath, _ALWAYS), *more):
            _check_json(folder, path)
    except OSError as error:
        raise cause(folder, error) from None
    line, _, digest = raw.partition(b'\n')
    try:
        found = json.loads(line)
        version = found['format']
        if digest == _digest(line) and version == FORMAT:
            leaves = {
                name: Leaf(dtype, tuple(shape), checksum)
                for name, (dtype, shape, checksum) in found['leaves'].items()
            }
            step = operator.index(found['step'])
            return Record(step, found['position'], leaves)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Damage(str(folder), FILE, 'is not a record') from None
    # Format 2 had no checksums.
    if digest != _digest(line) and (digest or version != 2):
        raise Damage(str(folder), FILE, 'does not have its checksum')
    allowed = (
        f'a run with checkpoints of format {FORMAT}: {folder} is of format '
        f'{version!r} (an older one needs a new folder, a newer one an update)'
    )
    raise ConfigError('workdir', str(folder.parent.parent), allowed)


def _check_json(folder: pathlib.Path, path: pathlib.Path) -> None:
    try:
        dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError, RecursionError):
        place = str(path.relative_to(folder))
        raise Damage(str(folder), place, 'is not JSON') from None


def _digest(line: bytes) -> bytes:
    return hashlib.sha256(line).hexdigest().encode() + b'\n'


def cause(folder: pathlib.Path, error: Exception) -> Exception:
    """Returns what an error of reading means: damage, or something else.

    Args:
      folder: the checkpoint's folder.
      error: an error of the system or of TensorStore.

    Returns:
      A Damage; a ConfigError for a file that may not be read; the error itself
      if memory or file handles are short.
    """
    text = str(error).partition(' [tensorstore_spec')[0]
    code = getattr(error, 'errno', None)
    if isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in text:
        return error
    if code in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return error
    # TensorStore names the leaf, and the file if that cannot be read at all.
    files = re.findall(
        rf'{re.escape(str(folder.absolute()))}/([^\s"\']+)', text
    )
    file = max(files, key=len, default='state').rstrip('/')
    leaf = re.search(r'"([^"]+)/[\d.]+" in OCDBT', text)
    place = f'leaf {leaf[1].replace(".", "/")}' if leaf else file
    if isinstance(error, PermissionError) or 'PERMISSION_DENIED' in text:
        allowed = f'a folder whose files may be read, not {folder}/{file}'
        return ConfigError('workdir', str(folder.parent.parent), allowed)
    reason = getattr(error, 'strerror', text.rpartition('": ')[2])
    if isinstance(error, FileNotFoundError) or 'NOT_FOUND' in text:
        return Damage(str(folder), place, 'is missing')
    return Damage(str(folder), place, f'cannot be read: {reason}')


class RecordHandler(ocp.AsyncCheckpointHandler):
    """Writes a record in the background, when its checksums are there."""

    async def async_save(self, directory: Any, args: 'RecordSave') -> Any:
        """Starts to write.

        Args:
          directory: folder of Orbax's item.
          args: the record, and the checksums of its leaves.

        Returns:
          The futures that Orbax waits for before it commits.
        """

        async def write():
            if jax.process_index() == 0:
                leaves = with_checksums(args.record.leaves, args.checksums)
                fields = args.record._replace(leaves=leaves)._asdict()
                line = json.dumps({'format': FORMAT, **fields}).encode()
                path = directory / pathlib.PurePath(FILE).name
                with open(path, 'wb') as file:
                    file.write(line + b'\n' + _digest(line))
                    file.flush()
                    os.fsync(file.fileno())

        start = ocp.future.CommitFutureAwaitingContractedSignals
        return [start(write(), name='record')]

    def save(self, directory: Any, *args: Any, **kwargs: Any) -> None:
        """Is not used: saving is asynchronous."""
        raise NotImplementedError

    def restore(self, directory: Any, *args: Any, **kwargs: Any) -> None:
        """Is not used: `read_record` reads."""
        raise NotImplementedError


@ocp.args.register_with_handler(RecordHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class RecordSave(ocp.args.CheckpointArgs):
    """What `RecordHandler` writes.

    Attributes:
      record: the record, its leaves without checksums.
      checksums: uint32 [leaves, 2], on the devices.
    """

    record: Record
    checksums: Any

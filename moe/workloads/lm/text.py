"""The data source of text files, whose bytes are the tokens."""

import dataclasses
import glob
import hashlib
import pathlib
import sysconfig
from typing import Annotated, ClassVar

import numpy as np

from moe.config import ConfigError, Within
from moe.workloads.lm.sources import SOURCES, Corpus, Source, check_length

_SEPARATOR = b'\0'
_NOT_PROSE = {
    '__pycache__',
    'dist-packages',
    'encodings',
    'idlelib',
    'pydoc_data',
    'site-packages',
    'test',
    'tests',
}


@SOURCES.register('text')
@dataclasses.dataclass(frozen=True)
class TextFiles(Source):
    """Bytes of text files, one file after another with a zero byte between.

    Without `files` it is the source code of Python's standard library. The
    validation files are those whose names have the lowest hashes, so that they
    do not depend on the order of a listing.

    Attributes:
      files: glob of text files; '' is Python's standard library.
      val_fraction: share of the files that are for validation.
    """

    bytes_per_token: ClassVar[float] = 1.0

    files: str = ''
    val_fraction: Annotated[float, Within(0.0, 0.5)] = 0.04

    @property
    def vocab_size(self) -> int:
        """Returns 256, the number of values of a byte."""
        return 256

    def load(self, seq_len):
        """Reads the files and splits them."""
        if self.files:
            root = None
            names = sorted(glob.glob(self.files, recursive=True))
        else:
            root = pathlib.Path(sysconfig.get_paths()['stdlib'])
            names = sorted(str(p) for p in root.rglob('*.py'))
            names = [n for n in names if not _NOT_PROSE & set(_parts(n, root))]
        paths = [p for p in map(pathlib.Path, names) if p.is_file()]
        if len(paths) < 2:
            allowed = (
                f'a glob of at least 2 text files (it matches {len(paths)})'
            )
            raise ConfigError('files', self.files, allowed)

        def order(path):
            name = '/'.join(_parts(path, root))
            return hashlib.sha256(name.encode()).digest()

        paths.sort(key=order)
        num_val = max(1, round(self.val_fraction * len(paths)))
        val, train = _read(paths[:num_val]), _read(paths[num_val:])
        digest = hashlib.sha256(train.tobytes())
        digest.update(val.tobytes())
        facts = {
            'train_files': len(paths) - num_val,
            'val_files': num_val,
            'train_bytes': len(train),
            'val_bytes': len(val),
        }
        corpus = Corpus(train, val, digest.hexdigest()[:16], facts)
        check_length(corpus, seq_len, 'files', self.files)
        return corpus

    def encode(self, text):
        """Returns the bytes of UTF-8."""
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def decode(self, ids):
        """Returns the text, with a mark for bytes that are not UTF-8."""
        text = bytes(np.asarray(ids, np.uint8)).decode(errors='replace')
        return text.replace(_SEPARATOR.decode(), '\n')

    def pieces(self, ids):
        """Returns the character of each byte, '' for one without a glyph."""
        shown = lambda c: 32 <= c < 127 or chr(c) in '\t\n'
        return [chr(c) if shown(c) else '' for c in ids]


def _parts(path, root) -> tuple[str, ...]:
    path = pathlib.Path(path)
    return (path.relative_to(root) if root else path).parts


def _read(paths) -> np.ndarray:
    text = _SEPARATOR.join(path.read_bytes() for path in paths)
    return np.frombuffer(text, np.uint8)

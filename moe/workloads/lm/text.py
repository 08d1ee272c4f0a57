"""Bytes of text files as a stream of fixed-length windows.

S bytes a sequence, B sequences a batch over all hosts.
"""

import dataclasses
import glob
import hashlib
import itertools
import pathlib
import sysconfig
from collections.abc import Iterator
from typing import Annotated

import grain
import numpy as np

from moe.config import (
    AtLeast,
    ConfigError,
    PositiveInt,
    Within,
)

VOCAB_SIZE = 256
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


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """A corpus of text files.

    Attributes:
      files: glob of text files; '' is Python's standard library.
      seq_len: S, bytes of a sequence.
      batch_size: B, sequences a step, over all hosts.
      val_fraction: share of the files kept for validation.
    """

    files: str = ''
    seq_len: Annotated[int, AtLeast(2)] = 128
    batch_size: PositiveInt = 32
    val_fraction: Annotated[float, Within(0.0, 0.5)] = 0.04


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Two texts that share no file.

    Attributes:
      train: uint8 bytes, files one after another with a zero byte between.
      val: likewise.
      num_files: files of each.
      fingerprint: a hash of all of it; runs on different text differ here.
    """

    train: np.ndarray
    val: np.ndarray
    num_files: tuple[int, int]
    fingerprint: str


def load_text(config: TextConfig) -> Corpus:
    """Reads the corpus and splits it by file.

    Without `files` it is the source of this Python's standard library. The
    validation files are those whose names hash lowest, so that they do not
    depend on the order of a listing.

    Args:
      config: of the corpus.

    Returns:
      The corpus.

    Raises:
      ConfigError: if there are too few files, or too little text in them.
    """
    if config.files:
        root = None
        names = sorted(glob.glob(config.files, recursive=True))
    else:
        root = pathlib.Path(sysconfig.get_paths()['stdlib'])
        names = sorted(str(p) for p in root.rglob('*.py'))
        names = [n for n in names if not _NOT_PROSE & set(_parts(n, root))]
    paths = [p for p in map(pathlib.Path, names) if p.is_file()]
    if len(paths) < 2:
        allowed = f'a glob of at least 2 text files (it matches {len(paths)})'
        raise ConfigError('config.data.files', config.files, allowed)

    def order(path):
        name = '/'.join(_parts(path, root))
        return hashlib.sha256(name.encode()).digest()

    paths.sort(key=order)
    num_val = max(1, round(config.val_fraction * len(paths)))
    val, train = _read(paths[:num_val]), _read(paths[num_val:])
    for name, text in (('training', train), ('validation', val)):
        if len(text) < config.seq_len + 1:
            allowed = (
                f'files with at least seq_len + 1 = {config.seq_len + 1} bytes '
                f'of {name} text (there are {len(text)})'
            )
            raise ConfigError('config.data.files', config.files, allowed)
    digest = hashlib.sha256(train.tobytes())
    digest.update(val.tobytes())
    return Corpus(
        train=train,
        val=val,
        num_files=(len(paths) - num_val, num_val),
        fingerprint=digest.hexdigest()[:16],
    )


def train_batches(
    corpus: Corpus,
    config: TextConfig,
    seed: int,
    host: int = 0,
    num_hosts: int = 1,
) -> grain.DatasetIterator:
    """Endless shuffled batches of this host's share of every global batch.

    Batch t is the same set of windows on any number of hosts, and the
    iterator's state, `{"next_index": t}`, is the same on all of them.

    Args:
      corpus: the text.
      config: lengths and sizes.
      seed: of the order; every epoch has its own.
      host: index of this host.
      num_hosts: number of hosts.

    Returns:
      An iterator over uint8 arrays [B / num_hosts, S + 1]: each row holds S
      inputs and, one place on, S targets.
    """
    windows = (
        grain.MapDataset.source(_Windows(corpus.train, config.seq_len))
        .seed(seed)
        .shuffle()
        .repeat(None)
    )
    mine = windows[host::num_hosts].batch(config.batch_size // num_hosts)
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    return iter(mine.to_iter_dataset(options))


def val_batches(
    corpus: Corpus, config: TextConfig, host: int = 0, num_hosts: int = 1
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The whole validation text once, the last batch padded.

    Args:
      corpus: the text.
      config: lengths and sizes.
      host: index of this host.
      num_hosts: number of hosts.

    Yields:
      This host's rows: uint8 tokens [B / num_hosts, S + 1], and a bool mask
      [B / num_hosts, S] of the targets that are text and not padding.
    """
    length, text = config.seq_len, corpus.val
    starts = range(0, len(text) - 1, length)
    for first in range(0, len(starts), config.batch_size):
        tokens = np.zeros((config.batch_size, length + 1), np.uint8)
        mask = np.zeros((config.batch_size, length), bool)
        rows = itertools.islice(starts, first, first + config.batch_size)
        for row, start in enumerate(rows):
            window = text[start : start + length + 1]
            tokens[row, : len(window)] = window
            mask[row, : len(window) - 1] = True
        yield tokens[host::num_hosts], mask[host::num_hosts]


class _Windows:
    """Windows of S + 1 bytes; consecutive ones share a byte."""

    def __init__(self, text: np.ndarray, length: int):
        self._text, self._length = text, length

    def __len__(self) -> int:
        return (len(self._text) - 1) // self._length

    def __getitem__(self, index) -> np.ndarray:
        start = int(index) * self._length
        return self._text[start : start + self._length + 1]


def _parts(path, root) -> tuple[str, ...]:
    path = pathlib.Path(path)
    return (path.relative_to(root) if root else path).parts


def _read(paths) -> np.ndarray:
    text = _SEPARATOR.join(path.read_bytes() for path in paths)
    return np.frombuffer(text, np.uint8)

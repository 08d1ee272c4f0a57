"""Delimited tables of features and labels, as arrays mapped from files.

N rows, F numeric inputs, C categorical columns, T tasks, B rows a batch over
all hosts.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import math
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Literal

import numpy as np

from moe.config import (
    ConfigError,
    NaturalInt,
    PositiveInt,
    Within,
)
from moe.workloads.multitask.data.delimited import (
    Chunk,
    Problems,
    matching,
    read_chunks,
)
from moe.workloads.multitask.data.hashing import uniform
from moe.workloads.multitask.data.preprocessing import Preprocessing, fit
from moe.workloads.multitask.data.rows import Rows, num_rows
from moe.workloads.multitask.data.schema import Schema

# The part of each row of a chunk, from 0.
Split = Callable[[Chunk], np.ndarray]


@dataclasses.dataclass(frozen=True)
class TableConfig:
    """Tables, as a config describes them.

    Attributes:
      files: a path, or a glob of some, read in the order of their names; .gz is
        decompressed.
      val_files: likewise, rows to validate on; '' to keep a share of `files`.
      test_files: likewise.
      val_fraction: share of the rows of `files` kept for validation.
      test_fraction: likewise, for a test.
      split_seed: of which rows those are, whatever the seed of a run.
      batch_size: B.
      on_error: whether a row that cannot be used stops the run, or is left out
        and counted.
      scratch: folder with room for all rows as numbers, '' for the system's.
      schema: of the tables.
    """

    files: str
    val_files: str
    test_files: str
    val_fraction: Annotated[float, Within(0.0, 0.9)]
    test_fraction: Annotated[float, Within(0.0, 0.9)]
    split_seed: NaturalInt
    batch_size: PositiveInt
    on_error: Literal['raise', 'skip']
    scratch: str
    schema: Schema

    def __post_init__(self):
        for name in ('val', 'test'):
            share = getattr(self, f'{name}_fraction')
            if share and getattr(self, f'{name}_files'):
                allowed = f'0 with {name}_files'
                raise ConfigError(f'{name}_fraction', share, allowed)
        if self.val_fraction + self.test_fraction > 0.9:
            allowed = 'at most 0.9 with val_fraction'
            raise ConfigError('test_fraction', self.test_fraction, allowed)
        if not self.val_fraction and not self.val_files:
            allowed = 'above 0, or val_files given'
            raise ConfigError('val_fraction', self.val_fraction, allowed)


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows to train on, to validate on and to test on, none shared.

    Attributes:
      train: 'numeric', float32 [N, F], 'categorical', int32 [N, C], 'label',
        float32 [N, T], 'mask', bool [N, T], and with a user column 'user',
        int32 [N], a hash of 31 bits; see `.rows` for batches.
      val: likewise.
      test: likewise, of no rows if the config keeps none.
      preprocessing: what was learned of `train`.
      skipped: rows left out.
      fingerprint: a hash of the files and the split.
    """

    train: Rows
    val: Rows
    test: Rows
    preprocessing: Preprocessing
    skipped: int
    fingerprint: str


def load_table(config: TableConfig) -> Table:
    """Reads tables twice: to learn of the training rows, and to encode all.

    The numbers go to files without a name, mapped into memory, so that a table
    may be larger than it. Which rows are kept for validation is a hash of their
    place.

    Args:
      config: of the tables.

    Returns:
      The rows.

    Raises:
      ConfigError: one line for whatever cannot be used, with file and line.
    """
    schema = config.schema
    where = 'config.data.files'
    files = {'train': matching(config.files, where)}
    for name in ('val', 'test'):
        if pattern := getattr(config, f'{name}_files'):
            files[name] = matching(pattern, f'config.data.{name}_files')
    needed = (*schema.features, *schema.others)
    skip = config.on_error == 'skip'

    def split(chunk: Chunk) -> np.ndarray:
        chance = uniform(chunk.number, config.split_seed)
        bounds = [
            config.val_fraction,
            config.val_fraction + config.test_fraction,
        ]
        return np.searchsorted(bounds, chance, side='right')

    problems = Problems(skip)
    chunks = read_chunks(files['train'], schema, problems, needed)
    learned = fit(
        (chunk.chosen(split(chunk) == 2) for chunk in chunks), schema, problems
    )
    problems = Problems(skip)
    with _scratch(config.scratch) as folder:
        made = _encode(
            read_chunks(files['train'], schema, problems, needed),
            learned,
            problems,
            folder,
            ('val', 'test', 'train'),
            split,
        )
        for name in ('val', 'test'):
            if name in files:
                chunks = read_chunks(files[name], schema, problems, needed)
                made |= _encode(
                    chunks, learned, problems, folder, (name,), _whole
                )
    size, count = config.batch_size, num_rows(made['train'])
    if count < size:
        allowed = (
            f'files with batch_size = {size} training rows (there are {count})'
        )
        raise ConfigError(where, config.files, allowed)
    if not num_rows(made['val']):
        allowed = 'files with rows to validate on (there are 0)'
        raise ConfigError(where, config.files, allowed)
    return Table(
        **made,
        preprocessing=learned,
        skipped=problems.count,
        fingerprint=_fingerprint(config, files),
    )


def apply_table(
    preprocessing: Preprocessing,
    files: str,
    *,
    columns: Sequence[str] = (),
    on_error: Literal['raise', 'skip'] = 'raise',
    scratch: str = '',
) -> tuple[Rows, Problems]:
    """Encodes a new table as that of the training.

    Args:
      preprocessing: what was learned then.
      files: a path, or a glob. With a header columns may have another order;
        those of labels and users may be absent: masks are then False.
      columns: names in the order of these files if they have no header and
        other columns than those of the training.
      on_error: as in `TableConfig`.
      scratch: as in `TableConfig`.

    Returns:
      The rows as in `Table`, and what was left out.

    Raises:
      ConfigError: as `load_table`.
    """
    schema = preprocessing.schema
    problems = Problems(on_error == 'skip')
    chunks = read_chunks(
        matching(files, 'files'), schema, problems, schema.features, columns
    )
    with _scratch(scratch) as folder:
        made = _encode(
            chunks, preprocessing, problems, folder, ('all',), _whole
        )
    return made['all'], problems


def _encode(
    chunks: Iterable[Chunk],
    learned: Preprocessing,
    problems: Problems,
    folder: str,
    names: Sequence[str],
    split: Split,
) -> dict[str, dict[str, np.ndarray]]:
    """Rows of each part of a table, encoded and mapped from files."""
    counts = dict.fromkeys(names, 0)
    kinds = {}
    with contextlib.ExitStack() as stack:
        opened = {}
        for chunk in chunks:
            encoded = learned.encode(chunk, problems)
            place = split(chunk)[~chunk.bad]
            for i, name in enumerate(names):
                own = place == i
                for key, array in encoded.items():
                    path = pathlib.Path(folder, f'{name}.{key}')
                    if path not in opened:
                        opened[path] = stack.enter_context(path.open('wb'))
                        kinds[name, key] = path, array.dtype, array.shape[1:]
                    opened[path].write(array[own].tobytes())
                counts[name] += int(np.sum(own))
    made: dict[str, dict[str, np.ndarray]] = {name: {} for name in names}
    for (name, key), (path, dtype, shape) in kinds.items():
        made[name][key] = _mapped(path, dtype, (counts[name], *shape))
    return made


def _whole(chunk: Chunk) -> np.ndarray:
    """The split into one part."""
    return np.zeros(len(chunk.lines), int)


def _mapped(path: pathlib.Path, dtype, shape: tuple[int, ...]) -> np.ndarray:
    """The file as an array, which stays though the file loses its name."""
    if not math.prod(shape):
        return np.zeros(shape, dtype)
    return np.asarray(np.memmap(path, dtype, 'r', shape=shape))


@contextlib.contextmanager
def _scratch(folder: str) -> Iterator[str]:
    """A folder for encoded rows, gone afterwards."""
    try:
        with tempfile.TemporaryDirectory(dir=folder or None) as made:
            yield made
    except OSError as error:
        allowed = f'a folder with room to write ({error.strerror})'
        raise ConfigError('config.data.scratch', folder, allowed) from None


def _fingerprint(config: TableConfig, files: Mapping[str, list[str]]) -> str:
    """Of what is read, not of numbers: sums differ between machines."""
    digest = hashlib.sha256(repr(config.schema).encode())
    share = (config.val_fraction, config.test_fraction, config.split_seed)
    digest.update(repr(share).encode())
    for name in itertools.chain.from_iterable(files.values()):
        with open(name, 'rb') as file:
            digest.update(hashlib.file_digest(file, 'sha256').digest())
    return digest.hexdigest()[:16]

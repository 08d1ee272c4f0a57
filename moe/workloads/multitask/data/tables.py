"""The data source of delimited tables, as arrays mapped from files.

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
from typing import Annotated, Any, Literal

import numpy as np

from moe import files
from moe.config import (
    ConfigError,
    NaturalInt,
    Within,
)
from moe.workloads.data_files import matching
from moe.workloads.multitask.data.delimited import (
    Chunk,
    Problems,
    read_chunks,
)
from moe.workloads.multitask.data.fitting import fit
from moe.workloads.multitask.data.hashing import uniform
from moe.workloads.multitask.data.preprocessing import Preprocessing
from moe.workloads.multitask.data.rows import Rows, num_rows
from moe.workloads.multitask.data.schema import Schema
from moe.workloads.multitask.data.source import SOURCES, Data, Source

# From a chunk to the index of the part of each row.
Split = Callable[[Chunk], np.ndarray]
_LEARNED = 'preprocessing.json'
_NOTED = 100_000  # rows whose labels are looked at for a note


@SOURCES.register('table')
@dataclasses.dataclass(frozen=True)
class TableSource(Source):
    """A source of rows from delimited tables.

    Attributes:
      files: path or glob of the tables, read in the order of their names; .gz
        is decompressed.
      val_files: path or glob of validation rows; '' takes a share of `files`.
      test_files: path or glob of test rows; '' takes a share of `files`.
      val_fraction: share of the rows of `files` that are for validation.
      test_fraction: share of the rows of `files` that are for the test.
      split_seed: seed of the split, independent of the run's seed.
      on_error: whether a row that cannot be used stops the run, or is skipped
        and counted.
      scratch: folder for the encoded rows of all tables; '' is the system's.
      schema: meaning of the columns.
    """

    files: str
    schema: Schema
    val_files: str = ''
    test_files: str = ''
    val_fraction: Annotated[float, Within(0.0, 0.9)] = 0.2
    test_fraction: Annotated[float, Within(0.0, 0.9)] = 0.2
    split_seed: NaturalInt = 0
    on_error: Literal['raise', 'skip'] = 'raise'
    scratch: str = ''

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

    @property
    def num_tasks(self):
        """Returns T, the number of labels."""
        return len(self.schema.labels)

    def load(self, batch_size):
        """Reads the tables; see `load_table`."""
        return load_table(self, batch_size)

    def restore(self, workdir):
        """Returns the tasks and features of the table of a run."""
        learned = read_preprocessing(workdir)
        if learned.schema != self.schema:
            allowed = "of the run's own data.source.schema"
            raise ConfigError(str(workdir / _LEARNED), '', allowed)
        return learned.inputs()


@dataclasses.dataclass(frozen=True)
class Table(Data):
    """Encoded rows of tables; 'user' is a hash of 31 bits.

    Attributes:
      preprocessing: preprocessing fitted to the training rows.
      skipped: number of lines of skipped rows.
      shared_files: files of training rows that others are a copy of.
    """

    preprocessing: Preprocessing
    skipped: int
    shared_files: tuple[str, ...] = ()

    def sizes(self):
        """Returns sizes and the fingerprint of the rows, JSON."""
        return {**super().sizes(), 'skipped_rows': self.skipped}

    def notes(self):
        """Tells validation on training rows, and labels of a large scale."""
        told = [
            f'{name} has rows to train on, and to validate or test on'
            for name in self.shared_files
        ]
        train: Any = self.train
        mask = train['mask'][:_NOTED]
        label = np.float64(train['label'][:_NOTED])
        size = np.sqrt(np.mean(np.square(label), axis=0, where=mask))
        told += [
            f'labels of {target.name} are of the size {size[i]:.3g}: their '
            'squared error drowns the losses of the other tasks, unless their '
            'target has standardize or log1p'
            for i, target in enumerate(self.inputs.targets)
            if target.squared and len(size) > 1 and size[i] > 10
        ]
        return told

    def save(self, workdir):
        """Writes the fitted preprocessing."""
        files.write_text(workdir / _LEARNED, self.preprocessing.to_json())


def read_preprocessing(workdir: pathlib.Path) -> Preprocessing:
    """Reads the fitted preprocessing of a run on a table.

    Args:
      workdir: the run's folder.

    Raises:
      ConfigError: if the run has not begun, or the file is damaged.
    """
    path = workdir / _LEARNED
    try:
        return Preprocessing.from_json(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        allowed = 'the folder of a run on a table that has begun'
        raise ConfigError('workdir', str(workdir), allowed) from None
    except (OSError, ValueError, RecursionError) as error:
        allowed = f'what a run on a table learned ({error})'
        raise ConfigError(str(path), '', allowed) from None


def load_table(source: TableSource, batch_size: int) -> Table:
    """Reads tables twice: to fit the preprocessing, and to encode all rows.

    The encoded rows are mapped from unlinked files, so that tables may be
    larger than memory. The split is a hash of each row's index.

    Args:
      source: description of the tables.
      batch_size: B, the least number of training rows.

    Returns:
      The rows.

    Raises:
      ConfigError: for what cannot be used, with its file and line.
    """
    schema = source.schema
    where = 'config.data.source.files'
    files = {'train': matching(source.files, where)}
    for name in ('val', 'test'):
        if pattern := getattr(source, f'{name}_files'):
            files[name] = matching(pattern, f'config.data.source.{name}_files')
    needed = (*schema.features, *schema.others)
    skip = source.on_error == 'skip'

    def split(chunk: Chunk) -> np.ndarray:
        draw = uniform(chunk.number, source.split_seed)
        bounds = [
            source.val_fraction,
            source.val_fraction + source.test_fraction,
        ]
        return np.searchsorted(bounds, draw, side='right')

    problems = Problems(skip)
    chunks = read_chunks(files['train'], schema, problems, needed)
    learned = fit(
        (chunk.chosen(split(chunk) == 2) for chunk in chunks), schema, problems
    )
    problems = Problems(skip)
    with _scratch(source.scratch) as folder:
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
    count = num_rows(made['train'])
    if count < batch_size:
        allowed = (
            f'files with batch_size = {batch_size} training rows (there are '
            f'{count})'
        )
        raise ConfigError(where, source.files, allowed)
    if not num_rows(made['val']):
        allowed = 'files with rows to validate on (there are 0)'
        raise ConfigError(where, source.files, allowed)
    digests = {part: [*map(_digest, names)] for part, names in files.items()}
    held_out = {*digests.get('val', ()), *digests.get('test', ())}
    pairs = zip(files['train'], digests['train'], strict=True)
    return Table(
        inputs=learned.inputs(),
        **made,
        preprocessing=learned,
        skipped=problems.count,
        shared_files=tuple(name for name, d in pairs if d in held_out),
        fingerprint=_fingerprint(source, digests),
    )


def apply_table(
    preprocessing: Preprocessing,
    files: str,
    *,
    columns: Sequence[str] = (),
    on_error: Literal['raise', 'skip'] = 'raise',
    scratch: str = '',
) -> tuple[Rows, Problems]:
    """Encodes new tables with a fitted preprocessing.

    Args:
      preprocessing: the fitted preprocessing.
      files: path or glob of the tables. With a header columns may have another
        order; those of labels and users may be absent, with masks False.
      columns: names of the columns of files without a header, if they differ
        from those of the training.
      on_error: whether a row that cannot be used raises, or is skipped.
      scratch: folder for the encoded rows; '' is the system's.

    Returns:
      The rows as in `Table`, with their places: 'row', int64 [N], their numbers
      from 1 among those of all files, 'file', int32 [N], an index, and 'line',
      int64 [N]; and the skipped ones.

    Raises:
      ConfigError: for what cannot be used, with its file and line.
    """
    schema = preprocessing.schema
    problems = Problems(on_error == 'skip', matching(files, 'files'))
    chunks = read_chunks(
        problems.files, schema, problems, schema.features, columns
    )
    with _scratch(scratch) as folder:
        made = _encode(
            chunks, preprocessing, problems, folder, ('all',), _whole, True
        )
    return made['all'], problems


def _encode(
    chunks: Iterable[Chunk],
    learned: Preprocessing,
    problems: Problems,
    folder: str,
    names: Sequence[str],
    split: Split,
    with_places: bool = False,
) -> dict[str, dict[str, np.ndarray]]:
    """Encodes the rows of each part of a table, mapped from files."""
    counts = dict.fromkeys(names, 0)
    kinds = {}
    with contextlib.ExitStack() as stack:
        opened = {}
        for chunk in chunks:
            encoded = learned.encode(chunk, problems)
            if with_places:
                encoded |= _places(chunk, problems)
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


def _places(chunk: Chunk, problems: Problems) -> dict[str, np.ndarray]:
    """Returns where the rows of a chunk that can be used stand."""
    file = np.full(len(chunk.lines), problems.files.index(chunk.file), np.int32)
    places = {
        'row': chunk.number + 1,
        'file': file,
        'line': np.array(chunk.lines, np.int64),
    }
    return {name: array[~chunk.bad] for name, array in places.items()}


def _whole(chunk: Chunk) -> np.ndarray:
    """Assigns all rows to the first part."""
    return np.zeros(len(chunk.lines), int)


def _mapped(path: pathlib.Path, dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Maps a file as an array, which outlives the file's name."""
    if not math.prod(shape):
        return np.zeros(shape, dtype)
    return np.asarray(np.memmap(path, dtype, 'r', shape=shape))


@contextlib.contextmanager
def _scratch(folder: str) -> Iterator[str]:
    """Makes a temporary folder for encoded rows."""
    if '\0' in folder:
        allowed = 'a folder, without a NUL'
        raise ConfigError('config.data.source.scratch', folder, allowed)
    try:
        with tempfile.TemporaryDirectory(dir=folder or None) as made:
            yield made
    except OSError as error:
        allowed = f'a folder with room to write ({error.strerror})'
        raise ConfigError(
            'config.data.source.scratch', folder, allowed
        ) from None


def _digest(path: str) -> bytes:
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').digest()


def _fingerprint(
    source: TableSource, digests: Mapping[str, list[bytes]]
) -> str:
    """Hashes the files, not numbers: sums differ between machines."""
    whole = hashlib.sha256(repr(source.schema).encode())
    share = (source.val_fraction, source.test_fraction, source.split_seed)
    whole.update(repr(share).encode())
    for digest in itertools.chain.from_iterable(digests.values()):
        whole.update(digest)
    return whole.hexdigest()[:16]

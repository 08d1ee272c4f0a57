"""Reads delimited text files in chunks of named columns."""

import csv
import dataclasses
import glob
import gzip
import itertools
import pathlib
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from moe.config import ConfigError
from moe.workloads.multitask.data.schema import Schema

_CHUNK = 512  # rows, so that they fit into a cache
_UNREADABLE = (OSError, EOFError, zlib.error)


class Problems:
    """Handles rows that cannot be used: raises, or skips and counts them.

    Attributes:
      skip: whether such rows are skipped.
      count: number of skipped rows.
      places: FILE:LINE of the first hundred of them.
    """

    def __init__(self, skip: bool):
        self.skip, self.count = skip, 0
        self.places: list[str] = []

    def leave_out(self, file: str, line: int) -> None:
        """Counts a skipped row, and notes its place.

        Args:
          file: path of the row's file.
          line: line of the row, from 1.
        """
        self.count += 1
        if self.count <= 100:
            self.places.append(f'{file}:{line}')

    def report(self, place: str, value, allowed: str) -> None:
        """Raises unless such rows are skipped.

        Args:
          place: file, line and column of the value.
          value: the value.
          allowed: what would have been accepted.

        Raises:
          ConfigError: in one line, with the place and the value.
        """
        if not self.skip:
            raise ConfigError(place, value, allowed)


@dataclasses.dataclass
class Chunk:
    """Consecutive rows of one file.

    Attributes:
      file: path of the file.
      lines: line number of each row in the file, from 1.
      number: int64, index of each row among the rows of all files.
      columns: values of each column, by name.
      bad: bool, True for rows that cannot be used.
    """

    file: str
    lines: Sequence[int]
    number: np.ndarray
    columns: Mapping[str, Sequence[str]]
    bad: np.ndarray

    def chosen(self, mask: np.ndarray) -> 'Chunk':
        """Returns the rows where a bool mask is True."""
        pick = lambda values: [*itertools.compress(values, mask.tolist())]
        return Chunk(
            self.file,
            pick(self.lines),
            self.number[mask],
            {name: pick(values) for name, values in self.columns.items()},
            self.bad[mask],
        )

    def refuse(
        self, bad: np.ndarray, column: str, problems: Problems, allowed: str
    ) -> None:
        """Marks rows whose value in a column cannot be used, and reports them.

        Args:
          bad: bool, whether each row's value cannot be used.
          column: name of the column.
          problems: handles the rows.
          allowed: what the values must be.
        """
        for i in np.flatnonzero(bad)[:1]:
            place = f'{self.file}:{self.lines[i]}: {column}'
            problems.report(place, self.columns[column][i], allowed)
        self.bad |= bad


def matching(pattern: str, field: str) -> list[str]:
    """Returns the files that a glob names, sorted.

    Args:
      pattern: the glob, or a path.
      field: the config field that holds the glob, for messages.

    Raises:
      ConfigError: if there is no such file.
    """
    names = sorted(glob.glob(pattern, recursive=True))
    files = [name for name in names if pathlib.Path(name).is_file()]
    if not files:
        allowed = 'the path or a glob of files (there is no such file)'
        raise ConfigError(field, pattern, allowed)
    return files


def read_chunks(
    files: Sequence[str],
    schema: Schema,
    problems: Problems,
    required: Sequence[str],
    names: Sequence[str] = (),
) -> Iterator[Chunk]:
    """Reads files one after another.

    Args:
      files: paths of the files; those ending in .gz are decompressed.
      schema: meaning of the columns.
      problems: handles rows with a wrong number of columns.
      required: columns that the files must have.
      names: names of the columns, instead of the schema's.

    Yields:
      Chunks of the columns that the schema uses and the files have.

    Raises:
      ConfigError: for a file without rows or a required column, or not of text.
    """
    number = 0
    for file in files:
        is_empty = True
        for chunk in _chunks(file, schema, problems, required, names, number):
            number = int(chunk.number[-1]) + 1
            is_empty = False
            yield chunk
        if is_empty:
            raise ConfigError(file, '', 'a file with rows (it has none)')


def _chunks(file, schema, problems, required, names, number) -> Iterator[Chunk]:
    opened = gzip.open if file.endswith('.gz') else open
    try:
        with opened(file, 'rt', encoding='utf-8-sig', newline='') as text:
            reader = csv.reader(
                text,
                delimiter=schema.delimiter,
                quotechar=schema.quote or None,
                quoting=csv.QUOTE_MINIMAL if schema.quote else csv.QUOTE_NONE,
                skipinitialspace=schema.strip and schema.delimiter != ' ',
            )
            names = list(names or schema.columns) or _header(reader, schema)
            used = _used(file, schema, required, names)
            rows = _rows(file, reader, len(names), problems)
            while some := list(itertools.islice(rows, _CHUNK)):
                lines, values = zip(*some, strict=True)
                columns = list(zip(*values, strict=True))
                if schema.strip:
                    picked = {n: [*map(str.strip, columns[i])] for n, i in used}
                else:
                    picked = {n: columns[i] for n, i in used}
                numbers = np.arange(number, number + len(some))
                number += len(some)
                bad = np.zeros(len(some), bool)
                yield Chunk(file, lines, numbers, picked, bad)
    except UnicodeDecodeError as error:
        raise ConfigError(file, '', f'text in UTF-8 ({error})') from None
    except (*_UNREADABLE, csv.Error) as error:
        allowed = f'a file that can be read ({error})'
        raise ConfigError(file, '', allowed) from None


def _rows(file, reader, width, problems) -> Iterator[tuple[int, list[str]]]:
    """Yields the line number and values of each row of the right width."""
    while True:
        try:
            for row in reader:
                if len(row) == width > 0:
                    yield reader.line_num, row
                elif row:  # not a blank line
                    problems.leave_out(file, reader.line_num)
                    place = f'{file}:{reader.line_num}'
                    allowed = f'{width} columns (there are {len(row)})'
                    problems.report(place, ','.join(row), allowed)
            return
        except csv.Error as error:
            problems.leave_out(file, reader.line_num)
            place = f'{file}:{reader.line_num}'
            problems.report(place, '', f'a row that can be read ({error})')


def _header(reader, schema) -> list[str]:
    names: list[str] = next(filter(None, reader), [])
    return [name.strip() for name in names] if schema.strip else names


def _used(file, schema, required, names) -> list[tuple[str, int]]:
    """Returns the columns to read and their indices; [] for an empty file."""
    wanted = dict.fromkeys((*schema.features, *schema.others))
    for name in wanted if names else ():
        times = names.count(name)
        if times > 1 or (name in required and not times):
            allowed = f'names of columns with {name!r} once'
            raise ConfigError(file, names, allowed)
    return [(name, names.index(name)) for name in wanted if name in names]

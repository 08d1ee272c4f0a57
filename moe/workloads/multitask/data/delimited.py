"""Reads delimited text files in chunks of named columns."""

import csv
import dataclasses
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from moe.config import ConfigError
from moe.workloads.data_files import UNREADABLE, binary_kind, opened
from moe.workloads.multitask.data.schema import Schema

_CHUNK = 512  # rows, so that they fit into a cache
_LONGEST_LINE = 2**20  # characters


class Problems:
    """Handles rows that cannot be used: raises, or skips and counts them.

    Attributes:
      skip: whether such rows are skipped.
      count: number of lines of the skipped rows.
      places: FILE:LINE of the first hundred rows.
      files: paths of the files that are read.
    """

    def __init__(self, skip: bool, files: Sequence[str] = ()):
        self.skip, self.count, self.files = skip, 0, files
        self.places: list[str] = []

    def leave_out(self, file: str, line: int, lines: int = 1) -> None:
        """Counts a skipped row, and notes its place.

        Args:
          file: path of the row's file.
          line: first line of the row, from 1.
          lines: number of its lines.
        """
        self.count += lines
        if len(self.places) < 100:
            self.places.append(f'{file}:{line}')

    def lines(self) -> list[str]:
        """Returns what is told at the end, if rows were skipped."""
        if not self.count:
            return []
        more = ', ...' if self.count > len(self.places) else ''
        return [f'{self.count} lines left out: {", ".join(self.places)}{more}']

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
      lines: number of each row's first line in the file, from 1.
      number: int64, index of each row among those of all files, rows that are
        left out among them.
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


def read_chunks(
    files: Sequence[str],
    schema: Schema,
    problems: Problems,
    required: Sequence[str],
    names: Sequence[str] = (),
) -> Iterator[Chunk]:
    """Reads files one after another.

    Args:
      files: paths of the files; those that are compressed are decompressed.
      schema: meaning of the columns.
      problems: handles lines that are no row.
      required: columns that the files must have.
      names: names of the columns, instead of the schema's.

    Yields:
      Chunks of the columns that the schema uses and the files have.

    Raises:
      ConfigError: for a file without rows or a required column, or not of text.
    """
    number = itertools.count()
    for file in files:
        is_empty = True
        for chunk in _chunks(file, schema, problems, required, names, number):
            is_empty = False
            yield chunk
        if is_empty:
            raise ConfigError(file, '', 'a file with rows (it has none)')


def _chunks(file, schema, problems, required, names, number) -> Iterator[Chunk]:
    try:
        with opened(file) as stream:
            if kind := binary_kind(stream.peek(512)):
                raise ConfigError(file, '', f'a delimited text (it is {kind})')
            lines = _Lines(stream, schema.multiline)
            reader = csv.reader(
                lines,
                delimiter=schema.delimiter,
                quotechar=schema.quote or None,
                quoting=csv.QUOTE_MINIMAL if schema.quote else csv.QUOTE_NONE,
                skipinitialspace=schema.strip and schema.delimiter != ' ',
                strict=True,
            )
            rows = _rows(reader, lines, schema)
            names = list(names or schema.columns)
            if not names:
                names = _header(file, rows)
            used = _used(file, schema, required, names)
            good = _of_width(file, rows, names, number, problems)
            while some := list(itertools.islice(good, _CHUNK)):
                at, numbers, values = zip(*some, strict=True)
                columns = list(zip(*values, strict=True))
                picked = {name: columns[i] for name, i in used}
                bad = np.zeros(len(some), bool)
                yield Chunk(file, at, np.array(numbers), picked, bad)
    except UNREADABLE as error:
        allowed = f'a file that can be read ({error})'
        raise ConfigError(file, '', allowed) from None


class _Refused(Exception):
    """A line that cannot be part of a row; its text ends "must be ..."."""


class _Lines:
    """Lines of a stream for a `csv.reader`, which asks for them.

    Attributes:
      count: number of lines so far.
      begins: whether the next line begins a row.
    """

    def __init__(self, stream, multiline: bool):
        self._text = io.TextIOWrapper(
            stream, 'utf-8-sig', 'surrogateescape', newline=''
        )
        self._multiline, self.count, self.begins = multiline, 0, True

    def __iter__(self):
        return self

    def __next__(self) -> str:
        if not self.begins and not self._multiline:
            raise _Refused(
                'a row whose quotes are closed on its line, or '
                'schema.multiline set'
            )
        line = self._text.readline(_LONGEST_LINE)
        if not line:
            raise StopIteration
        self.begins, self.count = False, self.count + 1
        if len(line) == _LONGEST_LINE and line[-1] not in '\r\n':
            while line and line[-1] not in '\r\n':
                line = self._text.readline(_LONGEST_LINE)
            raise _Refused(f'a line of at most {_LONGEST_LINE} characters')
        if not line.isascii():
            try:
                line.encode()
            except UnicodeEncodeError as error:
                raise _Refused(
                    f'text in UTF-8 (character {error.start + 1} is not)'
                ) from None
        if '\0' in line:
            raise _Refused('text without NUL bytes')
        return line


class _Row(NamedTuple):
    """A row as it is in the file, or why its lines are none.

    Attributes:
      line: its first line.
      lines: number of its lines.
      values: its values.
      problem: what it must be; '' if it is.
    """

    line: int
    lines: int
    values: list[str]
    problem: str


def _rows(reader, lines: _Lines, schema: Schema) -> Iterator[_Row]:
    """Yields rows, without those that are blank."""
    while True:
        first, values, problem = lines.count, [], ''
        lines.begins = True
        try:
            values = next(reader)
        except StopIteration:
            return
        except _Refused as error:
            problem = str(error)
        except csv.Error as error:
            problem = f'a row that can be read ({error})'
        if schema.strip:
            values = [*map(str.strip, values)]
        if values not in ([], ['']) or problem:
            yield _Row(first + 1, lines.count - first, values, problem)


def _of_width(
    file, rows, names, number, problems
) -> Iterator[tuple[int, int, list[str]]]:
    """Yields line, number and values of the rows with a value a column."""
    for line, lines, values, problem in rows:
        index = next(number)
        if not problem and len(values) != len(names):
            problem = f'{len(names)} columns (there are {len(values)})'
        elif not problem and values == names:
            problem = 'a row of values, not the names of the columns'
        if problem:
            problems.leave_out(file, line, lines)
            problems.report(f'{file}:{line}', ','.join(values), problem)
        else:
            yield line, index, values


def _header(file: str, rows: Iterator[_Row]) -> list[str]:
    for row in rows:
        if row.problem:
            raise ConfigError(f'{file}:{row.line}', '', row.problem)
        return row.values
    return []


def _used(file, schema, required, names) -> list[tuple[str, int]]:
    """Returns the columns to read and their indices; [] for an empty file."""
    wanted = dict.fromkeys((*schema.features, *schema.others))
    for name in wanted if names else ():
        times = names.count(name)
        if times > 1 or (name in required and not times):
            allowed = f'names of columns with {name!r} once'
            raise ConfigError(file, names, allowed)
    return [(name, names.index(name)) for name in wanted if name in names]

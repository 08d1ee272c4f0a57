"""Preprocessing of tables, fitted to the training rows.

n rows, F numeric inputs, C categorical columns, T tasks.
"""

import dataclasses
import functools
import itertools
import json
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from moe.config import ConfigError, parse, to_plain
from moe.workloads.multitask.data.delimited import Chunk, Problems
from moe.workloads.multitask.data.schema import Label, Schema
from moe.workloads.multitask.data.source import Inputs

_USERS = 2**31


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Statistics and names of the training rows, saved as JSON with a model.

    Attributes:
      schema: meaning of the table's columns.
      mean: mean of each numeric column.
      deviation: standard deviation of each numeric column, 1 where all
        numbers are the same.
      indicated: numeric columns with an indicator of missing values.
      categories: the names of ids 1, 2, ... of each table of categories that
        is not hashed.
      classes: the names of classes 0, 1, ... of each task whose label is one.
    """

    schema: Schema
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    indicated: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]
    classes: Mapping[str, tuple[str, ...]]

    def to_json(self) -> str:
        """Returns the preprocessing as text."""
        return json.dumps(to_plain(Preprocessing, self))

    @staticmethod
    def from_json(text: str) -> 'Preprocessing':
        """Returns the preprocessing of a text of `to_json`.

        Args:
          text: the text.
        """
        return parse(Preprocessing, json.loads(text), 'preprocessing')

    @property
    def num_numeric(self) -> int:
        """Returns F, the number of numeric inputs."""
        return len(self.schema.numeric) + len(self.indicated)

    @property
    def table_sizes(self) -> dict[str, int]:
        """Returns the number of ids of each table of categories, with id 0."""
        hashed = self.schema.hashed_tables
        sizes = {}
        for table in self.schema.table_of:
            known = self.schema.buckets
            if table not in hashed:
                known = len(self.categories[table])
            sizes[table] = 1 + known
        return sizes

    @property
    def table_of(self) -> tuple[int, ...]:
        """Returns the index of each categorical column in `table_sizes`."""
        names = list(self.table_sizes)
        return tuple(names.index(table) for table in self.schema.table_of)

    def inputs(self) -> Inputs:
        """Returns the tasks and features of these rows."""
        return Inputs(
            targets=tuple(
                label.target.of_task(
                    label.name, self.classes.get(label.name, ())
                )
                for label in self.schema.labels
            ),
            num_numeric=self.num_numeric,
            tables=self.table_sizes,
            table_of=self.schema.table_of,
        )

    def encode(self, chunk: Chunk, problems: Problems) -> dict[str, np.ndarray]:
        """Encodes rows as arrays.

        Args:
          chunk: n rows; columns of labels and users may be absent.
          problems: handles rows that cannot be used.

        Returns:
          Of the usable rows 'numeric', float32 [n, F], 'categorical', int32
          [n, C], 'label', float32 [n, T], 0 where there is none, 'mask', bool
          [n, T], and with a user column 'user', int32 [n], a hash.

        Raises:
          ConfigError: for a value that its column cannot have.
        """
        rows = {
            'numeric': self._numeric(chunk, problems),
            'categorical': self._categorical(chunk, problems),
        }
        labels = [
            self._label(chunk, label, problems) for label in self.schema.labels
        ]
        label, mask = (
            np.stack(arrays, axis=1) for arrays in zip(*labels, strict=True)
        )
        rows |= {'label': np.where(mask, label, 0), 'mask': mask}
        if self.schema.user is not None:
            nobody = [''] * len(chunk.lines)
            users = chunk.columns.get(self.schema.user, nobody)
            rows['user'] = np.array(
                [zlib.crc32(user.encode()) % _USERS for user in users], np.int32
            )
        rows['label'] = rows['label'].astype(np.float32)
        for i in np.flatnonzero(chunk.bad):
            problems.leave_out(chunk.file, chunk.lines[int(i)])
        return {name: array[~chunk.bad] for name, array in rows.items()}

    def _numeric(self, chunk, problems) -> np.ndarray:
        columns, missing = [], []
        statistics = zip(
            self.schema.numeric, self.mean, self.deviation, strict=True
        )
        for name, mean, deviation in statistics:
            x = (
                _numbers(chunk, name, self.schema, problems) - mean
            ) / deviation
            columns.append(np.nan_to_num(x))
            if name in self.indicated:
                missing.append(np.isnan(x))
        made = np.zeros((len(chunk.lines), self.num_numeric), np.float32)
        for i, column in enumerate(columns + missing):
            made[:, i] = column
        return made

    def _categorical(self, chunk, problems) -> np.ndarray:
        schema = self.schema
        made = np.zeros((len(chunk.lines), len(schema.categorical)), np.int32)
        pairs = zip(schema.categorical, schema.table_of, strict=True)
        for i, (name, table) in enumerate(pairs):
            values = chunk.columns[name]
            if table in schema.hashed_tables:
                salt = zlib.crc32(table.encode())
                made[:, i] = [
                    1 + zlib.crc32(value.encode(), salt) % schema.buckets
                    for value in values
                ]
                made[_is_in(values, schema.missing), i] = 0
            else:
                made[:, i] = [*map(self._ids[table].__getitem__, values)]
                if schema.strict:
                    unknown = made[:, i] == 0
                    unknown &= ~_is_in(values, schema.missing)
                    allowed = 'a category of the training rows'
                    chunk.refuse(unknown, name, problems, allowed)
        return made

    def _label(self, chunk, label, problems) -> tuple[np.ndarray, np.ndarray]:
        """Returns the label of each row, and whether it has one."""
        mask = _labelled(chunk, label, self.schema)
        if label.column not in chunk.columns:
            return np.zeros(len(mask)), mask
        values = chunk.columns[label.column]
        if label.target.reads == 'positive':
            return _is_in(values, label.positive).astype(float), mask
        if label.target.reads == 'class':
            names = self.classes[label.name]
            known = {name: i for i, name in enumerate(names)}
            made = np.array([known.get(value, -1) for value in values], float)
            allowed = 'a class of the training rows: ' + ', '.join(names)
            chunk.refuse(mask & (made < 0), label.column, problems, allowed)
            return made, mask
        return _numbers(chunk, label.column, self.schema, problems, mask), mask

    @functools.cached_property
    def _ids(self) -> 'dict[str, _Ids]':
        return {
            table: _Ids((name, i) for i, name in enumerate(names, 1))
            for table, names in self.categories.items()
        }


class _Ids(dict):
    """Ids by category, 0 for unknown ones."""

    def __missing__(self, key) -> int:
        return 0


def fit(
    chunks: Iterable[Chunk], schema: Schema, problems: Problems
) -> Preprocessing:
    """Fits means, deviations, categories and classes to training rows.

    Its memory depends only on the number of categories.

    Args:
      chunks: the training rows.
      schema: meaning of the table's columns.
      problems: handles rows that cannot be used.

    Returns:
      The fitted preprocessing.

    Raises:
      ConfigError: for a value that its column cannot have, or a label that all
        training rows share.
    """
    moments = {name: _Moments() for name in schema.numeric}
    hashed = schema.hashed_tables
    tables = {t: Counter[str]() for t in schema.table_of if t not in hashed}
    seen = [Counter[Any]() for _ in schema.labels]
    for chunk in chunks:
        numbers = {n: _numbers(chunk, n, schema, problems) for n in moments}
        masks = [_labelled(chunk, label, schema) for label in schema.labels]
        for label, mask in zip(schema.labels, masks, strict=True):
            if label.target.reads == 'number':
                _numbers(chunk, label.column, schema, problems, mask)
        usable = ~chunk.bad
        for name, x in numbers.items():
            moments[name].add(x[usable])
        for name, table in zip(
            schema.categorical, schema.table_of, strict=True
        ):
            if table in tables:
                tables[table].update(
                    itertools.compress(chunk.columns[name], usable.tolist())
                )
        for i, label in enumerate(schema.labels):
            valid = (usable & masks[i]).tolist()
            values = itertools.compress(chunk.columns[label.column], valid)
            if label.target.reads == 'positive':
                seen[i].update(value in label.positive for value in values)
            elif label.target.reads == 'class':
                seen[i].update(values)
            else:
                seen[i].update(any(valid) * ['some'])
    for i, label in enumerate(schema.labels):
        if len(seen[i]) < (1 if label.target.reads == 'number' else 2):
            field = f'config.data.source.schema.labels[{i}]'
            raise ConfigError(field, label.name, _poor(label, seen[i]))
    return Preprocessing(
        schema=schema,
        mean=tuple(m.mean for m in moments.values()),
        deviation=tuple(m.deviation for m in moments.values()),
        indicated=tuple(
            n for n, m in moments.items() if schema.indicators and m.missing
        ),
        categories={
            t: _frequent(counts, schema) for t, counts in tables.items()
        },
        classes={
            label.name: tuple(sorted(values))
            for label, values in zip(schema.labels, seen, strict=True)
            if label.target.reads == 'class'
        },
    )


class _Moments:
    """Running mean and deviation of chunks of numbers, nan for missing ones.

    Source: Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm
    for Computing Sample Variances, 1979.
    """

    def __init__(self):
        self.count, self.mean, self.squares, self.missing = 0, 0.0, 0.0, 0

    def add(self, x: np.ndarray) -> None:
        """Adds numbers.

        Args:
          x: numbers, float64; nan for missing ones.
        """
        valid = x[~np.isnan(x)]
        self.missing += len(x) - len(valid)
        if not len(valid):
            return
        count = self.count + len(valid)
        mean = float(np.mean(valid))
        apart = mean - self.mean
        self.squares += float(np.sum((valid - mean) ** 2))
        self.squares += apart**2 * self.count * len(valid) / count
        self.mean += apart * len(valid) / count
        self.count = count

    @property
    def deviation(self) -> float:
        """Returns the standard deviation; 1 if all numbers are equal."""
        deviation = math.sqrt(self.squares / max(self.count, 1))
        # Smaller deviations are rounding errors.
        return deviation if deviation > 1e-12 * abs(self.mean) else 1.0


def _numbers(
    chunk: Chunk, name: str, schema: Schema, problems: Problems, within=True
) -> np.ndarray:
    """Returns a column as float64, nan where missing or outside of `within`."""
    values = chunk.columns[name]
    missing = set(schema.missing)
    try:
        x = np.array([math.nan if v in missing else float(v) for v in values])
    except ValueError:
        x = np.array([math.nan if v in missing else _or_inf(v) for v in values])
    absent = _is_in(values, missing) | ~np.broadcast_to(within, len(values))
    with np.errstate(over='ignore'):  # too great for float32 is no number
        bad = ~absent & ~np.isfinite(x.astype(np.float32))
    chunk.refuse(bad, name, problems, 'a finite number, or in `missing`')
    x = np.where(absent | bad, math.nan, x)
    if name in schema.log1p:
        chunk.refuse(x <= -1, name, problems, 'above -1, as log1p is taken')
        x = np.log1p(np.where(x <= -1, math.nan, x))
    return x


def _or_inf(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return math.inf


def _labelled(chunk: Chunk, label: Label, schema: Schema) -> np.ndarray:
    """Returns the rows with the label and in the task's sample space."""
    needed = [label.column] + ([label.where.column] if label.where else [])
    if any(column not in chunk.columns for column in needed):
        return np.zeros(len(chunk.lines), bool)
    mask = ~_is_in(chunk.columns[label.column], schema.missing)
    if label.where:
        inside = _is_in(chunk.columns[label.where.column], label.where.values)
        mask &= inside
    return mask


def _is_in(values: Sequence[str], some: Iterable[str]) -> np.ndarray:
    return np.fromiter(map(set(some).__contains__, values), bool, len(values))


def _frequent(counts: Counter[str], schema: Schema) -> tuple[str, ...]:
    """Returns the categories by falling frequency, then by name."""
    frequent = [
        (-count, name)
        for name, count in counts.items()
        if count >= schema.min_count and name not in schema.missing
    ]
    return tuple(name for _, name in sorted(frequent))


def _poor(label: Label, values: Counter) -> str:
    if label.target.reads == 'positive' and values:
        which = 'all' if True in values else 'none'
        return (
            f'a label of two kinds in the training rows ({which} are of '
            f'{", ".join(label.positive)})'
        )
    return 'a label of which the training rows have ' + (
        'any' if label.target.reads == 'number' else 'two classes'
    )

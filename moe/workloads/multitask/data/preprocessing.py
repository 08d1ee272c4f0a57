"""Preprocessing of tables, as fitted to the training rows.

n rows, F numeric inputs, C categorical columns, T tasks.
"""

import dataclasses
import functools
import json
import math
import zlib
from collections.abc import Iterable, Mapping

import numpy as np

from moe.config import ConfigError, parse, to_plain
from moe.workloads.multitask.data.delimited import Chunk, Problems
from moe.workloads.multitask.data.schema import Schema
from moe.workloads.multitask.data.source import Inputs
from moe.workloads.multitask.data.values import (
    category,
    feature,
    is_in,
    known_label,
    labelled,
)
from moe.workloads.multitask.targets import Target

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
      version: 1 hashes categories as they are spelled, 2 whole numbers as one.
      label_mean: mean of the numbers of each task that standardizes them.
      label_deviation: their standard deviation.
    """

    schema: Schema
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    indicated: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]
    classes: Mapping[str, tuple[str, ...]]
    version: int = 1
    label_mean: Mapping[str, float] = dataclasses.field(default_factory=dict)
    label_deviation: Mapping[str, float] = dataclasses.field(
        default_factory=dict
    )

    def __post_init__(self):
        numeric = self.schema.numeric
        for field in ('mean', 'deviation'):
            some = getattr(self, field)
            if len(some) != len(numeric) or not all(map(math.isfinite, some)):
                allowed = f'{len(numeric)} finite numbers'
                raise ConfigError(field, some, allowed)
        if min(self.deviation, default=1.0) <= 0:
            raise ConfigError('deviation', self.deviation, 'above 0')
        tables = {*self.schema.table_of} - self.schema.hashed_tables
        tasks = {
            label.name
            for label in self.schema.labels
            if label.target.reads == 'class'
        }
        scaled = {t.name for t in self.schema.labels if t.target.standardize}
        for field, wanted in (
            ('categories', tables),
            ('classes', tasks),
            ('label_mean', scaled),
            ('label_deviation', scaled),
        ):
            found = getattr(self, field)
            if {*found} != wanted:
                allowed = f'of the names {", ".join(sorted(wanted))}'
                raise ConfigError(field, [*found], allowed)

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
            targets=self._targets,
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
            self._label(chunk, label, target, problems)
            for label, target in zip(
                self.schema.labels, self._targets, strict=True
            )
        ]
        label, mask = (
            np.stack(arrays, axis=1) for arrays in zip(*labels, strict=True)
        )
        rows |= {'label': np.where(mask, label, 0), 'mask': mask}
        if self.schema.user is not None:
            nobody = [''] * len(chunk.lines)
            users = chunk.columns.get(self.schema.user, nobody)
            names = map(category, users)
            rows['user'] = np.array(
                [zlib.crc32(user.encode()) % _USERS for user in names], np.int32
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
            x = feature(chunk, name, self.schema, problems)
            x = (x - mean) / deviation
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
        spelled = category if self.version > 1 else str
        pairs = zip(schema.categorical, schema.table_of, strict=True)
        for i, (name, table) in enumerate(pairs):
            values = chunk.columns[name]
            if table in schema.hashed_tables:
                salt = zlib.crc32(table.encode())
                made[:, i] = [
                    1 + zlib.crc32(value.encode(), salt) % schema.buckets
                    for value in map(spelled, values)
                ]
                made[is_in(values, schema.missing), i] = 0
            else:
                made[:, i] = [*map(self._ids[table].__getitem__, values)]
                if schema.strict:
                    unknown = made[:, i] == 0
                    unknown &= ~is_in(values, schema.missing)
                    allowed = 'a category of the training rows'
                    chunk.refuse(unknown, name, problems, allowed)
        return made

    def _label(
        self, chunk, label, target, problems
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the label of each row, and whether it has one."""
        column = label.column
        if target.reads != 'class' or column not in chunk.columns:
            return known_label(chunk, label, target, self.schema, problems)
        mask = labelled(chunk, label, self.schema, problems)
        known = _Ids(target.classes)
        made = np.array([known[v] - 1 for v in chunk.columns[column]], float)
        allowed = 'a class of the training rows: ' + ', '.join(target.classes)
        chunk.refuse(mask & (made < 0), column, problems, allowed)
        return made, mask

    @functools.cached_property
    def _targets(self) -> tuple[Target, ...]:
        """Returns the targets of the tasks, with what was learned of them."""
        made = []
        for label in self.schema.labels:
            name, learned = label.name, {}
            if name in self.label_mean:
                learned['label_mean'] = self.label_mean[name]
                learned['label_deviation'] = self.label_deviation[name]
            classes = self.classes.get(name, ())
            made.append(label.target.of_task(name, classes, **learned))
        return tuple(made)

    @functools.cached_property
    def _ids(self) -> 'dict[str, _Ids]':
        return {table: _Ids(names) for table, names in self.categories.items()}


class _Ids(dict):
    """Ids of names, from 1; 0 for unknown ones."""

    def __init__(self, names: Iterable[str]):
        super().__init__((name, i) for i, name in enumerate(names, 1))
        for name, i in tuple(self.items()):
            self.setdefault(category(name), i)

    def __missing__(self, key: str) -> int:
        return self.get(category(key), 0)

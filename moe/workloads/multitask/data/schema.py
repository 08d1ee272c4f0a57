"""The schema of a delimited table: the meaning of its columns."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated

from moe.config import ConfigError, NaturalInt, OneOf, PositiveInt
from moe.workloads.multitask.targets import TARGETS, Target

# Fields of a target that its task fills in, and no config has.
_BY_TASK = frozenset({'name', 'classes', 'label_mean', 'label_deviation'})


@dataclasses.dataclass(frozen=True)
class Condition:
    """A condition on rows: a column has one of some values.

    Attributes:
      column: name of the column.
      values: the values, as the file has them; numbers are compared as such.
    """

    column: str
    values: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Label:
    """The label of one task of a table.

    Attributes:
      name: name of the task.
      column: the column with the label, which several tasks may read.
      target: kind of the label, with its loss.
      where: the task's sample space: other rows have no label; None for all
        rows.
    """

    name: str
    column: str
    target: Annotated[Target, OneOf(TARGETS, _BY_TASK)]
    where: Condition | None = None

    def __post_init__(self):
        taken = ('all', 'shared', 'row')
        if not self.name or '/' in self.name or self.name in taken:
            allowed = "a name without '/', and none of 'all', 'shared', 'row'"
            raise ConfigError('name', self.name, allowed)
        if self.target.reads == 'positive' and not self.positive:
            allowed = 'the values of the column that are 1, at least one'
            raise ConfigError('target.positive', self.positive, allowed)

    @property
    def positive(self) -> tuple[str, ...]:
        """Returns the values whose label is 1; () for other kinds of target."""
        return getattr(self.target, 'positive', ())


@dataclasses.dataclass(frozen=True)
class Schema:
    """The meaning of a delimited table's columns.

    A column in none of the lists is ignored. Categories are numbered from 1 by
    frequency in the training rows; 0 is a missing, rare or unknown category.
    A whole number is the same category as `3` and as `3.0`.

    Attributes:
      labels: the tasks, in order.
      columns: names of the columns in order; () if each file has a header.
      delimiter: one character.
      quote: one character, or '' if nothing is quoted.
      multiline: whether a quoted value may hold ends of lines; otherwise a
        quote that is not closed on its line is an error.
      strip: whether blanks around values are removed.
      missing: values that are missing, such as ('', '?'); numbers are compared
        as such.
      numeric: columns of numbers, standardised by the training rows; a missing
        number becomes their mean.
      log1p: those of `numeric` of which log(1 + x) is taken first.
      indicators: whether numeric columns with missing values in the training
        rows get an additional column, 1 where the value is missing.
      categorical: columns of categories.
      shared: groups of categorical columns that share a table of categories,
        named after the first.
      min_count: categories less frequent in the training rows are rare.
      hashed: categorical columns whose categories are hashed instead of listed;
        one column of a group hashes all of it.
      buckets: number of hash buckets; 0 without hashed columns.
      strict: whether a category that no training row has is an error.
      user: column of users, for `moe.workloads.multitask.ranking.gauc`; None
        without one.
    """

    labels: tuple[Label, ...]
    columns: tuple[str, ...] = ()
    delimiter: str = ','
    quote: str = '"'
    multiline: bool = dataclasses.field(default=False, repr=False)
    strip: bool = True
    missing: tuple[str, ...] = ('',)
    numeric: tuple[str, ...] = ()
    log1p: tuple[str, ...] = ()
    indicators: bool = False
    categorical: tuple[str, ...] = ()
    shared: tuple[tuple[str, ...], ...] = ()
    min_count: PositiveInt = 1
    hashed: tuple[str, ...] = ()
    buckets: NaturalInt = 0
    strict: bool = False
    user: str | None = None

    def __post_init__(self):
        if len(self.delimiter) != 1 or self.delimiter in '"\r\n':
            allowed = 'one character, no quote and no end of line'
            raise ConfigError('delimiter', self.delimiter, allowed)
        if len(self.quote) > 1 or self.quote in (self.delimiter, *' \r\n'):
            allowed = (
                "one character other than the delimiter and a blank, or ''"
            )
            raise ConfigError('quote', self.quote, allowed)
        if not self.numeric and not self.categorical:
            allowed = 'given, or there is no feature in numeric either'
            raise ConfigError('categorical', self.categorical, allowed)
        if not self.labels:
            raise ConfigError('labels', self.labels, 'at least one task')
        if self.hashed and not self.buckets:
            allowed = 'at least 1, as there are hashed columns'
            raise ConfigError('buckets', self.buckets, allowed)
        if self.buckets and not self.hashed:
            allowed = '0, as there are no hashed columns'
            raise ConfigError('buckets', self.buckets, allowed)
        if self.strict and self.min_count > 1:
            allowed = 'False with min_count above 1: there are rare categories'
            raise ConfigError('strict', self.strict, allowed)
        grouped = tuple(c for group in self.shared for c in group)
        if any(not group for group in self.shared):
            raise ConfigError('shared', self.shared, 'of groups that hold any')
        names: tuple[str, ...]
        of: tuple[str, ...] | None
        for field, names, of in (
            ('columns', self.columns, None),
            ('numeric', self.numeric, None),
            ('categorical', self.categorical, None),
            ('log1p', self.log1p, self.numeric),
            ('shared', grouped, self.categorical),
            ('hashed', self.hashed, self.categorical),
            ('labels', tuple(label.name for label in self.labels), None),
        ):
            twice = sorted({n for n in names if names.count(n) > 1})
            if twice:
                allowed = f'of names that differ ({twice[0]!r} is there twice)'
                raise ConfigError(field, names, allowed)
            for name in names:
                if of is not None and name not in of:
                    where = 'numeric' if field == 'log1p' else 'categorical'
                    allowed = f'of columns in {where} ({name!r} is not)'
                    raise ConfigError(field, names, allowed)
        for label in self.labels:
            if label.column in self.features:
                allowed = f'of columns that are no features ({label.column!r})'
                raise ConfigError('labels', label.name, allowed)
        for name in (*self.features, *self.others) if self.columns else ():
            if name not in self.columns:
                allowed = f'of all columns ({name!r} is missing)'
                raise ConfigError('columns', self.columns, allowed)

    @property
    def features(self) -> tuple[str, ...]:
        """Returns the columns that a prediction needs."""
        return self.numeric + self.categorical

    @property
    def others(self) -> tuple[str, ...]:
        """Returns the columns of labels, their sample spaces, and the user."""
        return tuple(dict.fromkeys(self._others()))

    def _others(self) -> Iterator[str]:
        for label in self.labels:
            yield label.column
            if label.where:
                yield label.where.column
        if self.user is not None:
            yield self.user

    @property
    def table_of(self) -> tuple[str, ...]:
        """Returns the name of the table of each categorical column."""
        first = {c: group[0] for group in self.shared for c in group}
        return tuple(first.get(c, c) for c in self.categorical)

    @property
    def hashed_tables(self) -> frozenset[str]:
        """Returns the names of the tables whose categories are hashed."""
        pairs = zip(self.categorical, self.table_of, strict=True)
        return frozenset(table for c, table in pairs if c in self.hashed)

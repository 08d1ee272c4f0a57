"""Fits the preprocessing of a table to its training rows.

n rows.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from moe.config import ConfigError
from moe.workloads.multitask.data.delimited import Chunk, Problems
from moe.workloads.multitask.data.preprocessing import Preprocessing
from moe.workloads.multitask.data.schema import Label, Schema
from moe.workloads.multitask.data.values import (
    category,
    feature,
    is_in,
    known_label,
    labelled,
)


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
    of_label = {label.name: _Moments() for label in schema.labels}
    for chunk in chunks:
        columns = {n: feature(chunk, n, schema, problems) for n in moments}
        labels = [
            known_label(chunk, label, label.target, schema, problems)
            if label.target.reads != 'class'
            else (None, labelled(chunk, label, schema, problems))
            for label in schema.labels
        ]
        usable = ~chunk.bad
        for name, x in columns.items():
            moments[name].add(x[usable])
        for name, table in zip(
            schema.categorical, schema.table_of, strict=True
        ):
            if table in tables:
                tables[table].update(
                    itertools.compress(chunk.columns[name], usable.tolist())
                )
        for i, (label, (y, mask)) in enumerate(
            zip(schema.labels, labels, strict=True)
        ):
            valid = usable & mask
            if y is None:
                values = chunk.columns[label.column]
                seen[i].update(itertools.compress(values, valid.tolist()))
            elif label.target.reads == 'positive':
                seen[i].update(y[valid].tolist())
            else:
                of_label[label.name].add(y[valid])
                seen[i].update(any(valid) * ['some'])
    seen = [
        _merged(counts) if label.target.reads == 'class' else counts
        for label, counts in zip(schema.labels, seen, strict=True)
    ]
    for i, label in enumerate(schema.labels):
        if len(seen[i]) < (1 if label.target.reads == 'number' else 2):
            field = f'config.data.source.schema.labels[{i}]'
            raise ConfigError(field, label.name, _poor(label, seen[i]))
    scaled = [t.name for t in schema.labels if t.target.standardize]
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
        version=2,
        label_mean={n: of_label[n].mean for n in scaled},
        label_deviation={n: of_label[n].deviation for n in scaled},
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


def _merged(counts: Counter[str]) -> Counter[str]:
    """Adds up the counts of texts that are one category."""
    spelled: dict[str, list[str]] = {}
    for text in counts:
        spelled.setdefault(category(text), []).append(text)
    return Counter(
        {
            texts[0] if len(texts) == 1 else name: sum(
                counts[text] for text in texts
            )
            for name, texts in spelled.items()
        }
    )


def _frequent(counts: Counter[str], schema: Schema) -> tuple[str, ...]:
    """Returns the categories by falling frequency, then by name."""
    merged = _merged(counts)
    names = list(merged)
    missing = is_in(names, schema.missing)
    frequent = [
        (-merged[name], name)
        for name, is_missing in zip(names, missing, strict=True)
        if merged[name] >= schema.min_count and not is_missing
    ]
    return tuple(name for _, name in sorted(frequent))


def _poor(label: Label, values: Counter) -> str:
    if label.target.reads == 'positive' and values:
        which = 'all' if 1.0 in values else 'none'
        return (
            f'a label of two kinds in the training rows ({which} are of '
            f'{", ".join(label.positive)})'
        )
    return 'a label of which the training rows have ' + (
        'any' if label.target.reads == 'number' else 'two classes'
    )

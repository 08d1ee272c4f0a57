"""A schema of few columns, files of them, and chunks of rows."""

import numpy as np

from moe.config import parse
from moe.workloads.multitask.data.delimited import Chunk, Problems
from moe.workloads.multitask.data.fitting import fit
from moe.workloads.multitask.data.schema import Schema

LABEL = {
    'name': 'click',
    'column': 'click',
    'target': {'name': 'binary', 'positive': ('1',)},
    'where': None,
}
PLAIN = {
    'columns': (),
    'delimiter': ',',
    'quote': '"',
    'strip': True,
    'missing': ('', '?'),
    'numeric': ('age',),
    'log1p': (),
    'indicators': False,
    'categorical': ('city',),
    'shared': (),
    'min_count': 1,
    'hashed': (),
    'buckets': 0,
    'strict': False,
    'labels': (LABEL,),
    'user': None,
}


def schema(**changes):
    return parse(Schema, {**PLAIN, **changes})


def write(path, *lines):
    path.write_text('\n'.join(lines) + '\n')
    return str(path)


COLUMNS = {
    'age': ['1', '2', '', '6'],
    'city': ['Ulm', 'Bonn', 'Bonn', '?'],
    'click': ['0', '1', '?', '1'],
}
REGRESSION = {**LABEL, 'target': 'regression'}
CLASSES = {**LABEL, 'target': 'classes'}


def chunk(**columns):
    """Four rows from line 2 on; a column of None is absent."""
    columns = {**COLUMNS, **columns}
    columns = {n: values for n, values in columns.items() if values is not None}
    count = len(next(iter(columns.values())))
    lines = range(2, 2 + count)
    bad = np.zeros(count, bool)
    return Chunk('a.csv', lines, np.arange(count), columns, bad)


def learn(*chunks, skip=False, **changes):
    return fit(chunks or [chunk()], schema(**changes), Problems(skip))


def encode(learned, made, skip=False):
    problems = Problems(skip)
    return learned.encode(made, problems), problems.count

"""A small table with a column of every kind, and the smallest run on it."""

import csv
import gzip
import random

from configs import multitask
from tests import tiny
from tests.workloads.multitask.data.small_table import LABEL, PLAIN

COLUMNS = (
    'age',
    'pay',
    'city',
    'device',
    'user',
    'click',
    'bought',
    'colour',
    'spend',
)
LABELS = ('click', 'bought', 'colour', 'spend')
SCHEMA = {
    **PLAIN,
    'numeric': ('age', 'pay'),
    'log1p': ('pay',),
    'indicators': True,
    'categorical': ('city', 'device'),
    'labels': (
        LABEL,
        {
            **LABEL,
            'name': 'bought',
            'column': 'bought',
            'where': {'column': 'click', 'values': ('1',)},
        },
        {'name': 'colour', 'column': 'colour', 'target': 'classes'},
        {'name': 'spend', 'column': 'spend', 'target': 'regression'},
    ),
    'user': 'user',
}


def rows(count, seed=0, cities=('Rome', 'Oslo', 'Lima')):
    """Rows of text by column; some ages and labels are missing."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        click = draw.randrange(2)
        row = {
            'age': str(draw.randrange(20, 70)),
            'pay': f'{draw.uniform(0, 90):.2f}',
            'city': draw.choice(cities),
            'device': draw.choice(['phone', 'desk']),
            'user': draw.choice('uvwx'),
            'click': str(click),
            'bought': str(draw.randrange(2)) if click else '0',
            'colour': draw.choice(['red', 'green', 'blue']),
            'spend': f'{draw.gauss(0, 1):.3f}',
        }
        for name in ('age', 'click', 'colour', 'spend'):
            if draw.random() < 0.2:
                row[name] = draw.choice(['', '?'])
        made.append(row)
    return made


def write(path, table, columns=COLUMNS):
    """Writes rows with a header, compressed if the path ends in .gz."""
    opened = gzip.open if path.suffix == '.gz' else open
    with opened(path, 'wt', newline='') as file:
        writer = csv.DictWriter(file, columns, extrasaction='ignore')
        writer.writeheader()
        writer.writerows(table)
    return path


def plain(files, **changes):
    """A plain config of few steps; changes are by dotted name."""
    small = {
        'seed': 0,
        'steps': 4,
        'model.features.onehot_up_to': 3,
        'model.expert.widths': (6,),
        'model.expert.batch_norm': {'momentum': 0.5},
        'model.towers.widths': (4,),
        'data.source.files': str(files),
        'data.source.val_fraction': 0.3,
        'data.source.test_fraction': 0.3,
        'data.batch_size': 16,
        'data.source.schema': SCHEMA,
        'log_every': 1,
        'eval_every': 2,
        'checkpoint_every': 2,
    }
    config = multitask.get_config('mmoe,census')
    return tiny.changed(config, {**small, **changes})

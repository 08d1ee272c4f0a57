"""A schema of few columns, and files of them."""

from moe.config import parse
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

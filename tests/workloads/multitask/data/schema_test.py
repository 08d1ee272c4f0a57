"""Schemas that are refused, and what a schema tells."""

import pytest

from moe.config import ConfigError
from tests.workloads.multitask.data.small_table import LABEL, schema


@pytest.mark.parametrize(
    ('changes', 'field', 'words'),
    [
        ({'delimiter': ''}, 'delimiter', 'one character'),
        ({'delimiter': ', '}, 'delimiter', 'one character'),
        ({'delimiter': '\n'}, 'delimiter', 'no end of line'),
        ({'quote': "''"}, 'quote', 'one character'),
        ({'quote': '\n'}, 'quote', 'one character'),
        ({'quote': ','}, 'quote', 'other than the delimiter'),
        ({'numeric': (), 'categorical': ()}, 'categorical', 'no feature'),
        ({'numeric': ('age', 'age')}, 'numeric', "'age' is there twice"),
        ({'categorical': ('a', 'b', 'a')}, 'categorical', "'a' is there"),
        ({'log1p': ('city',)}, 'log1p', "in numeric ('city' is not)"),
        ({'hashed': ('age',), 'buckets': 3}, 'hashed', 'in categorical'),
        ({'hashed': ('city',)}, 'buckets', 'at least 1'),
        ({'shared': (('city', 'town'),)}, 'shared', "'town' is not"),
        ({'shared': (('city',), ('city',))}, 'shared', "'city' is there"),
        ({'shared': ((),)}, 'shared', 'groups'),
        ({'strict': True, 'min_count': 2}, 'strict', 'False with min_count'),
        ({'labels': ()}, 'labels', 'at least one'),
        ({'labels': (LABEL, LABEL)}, 'labels', "'click' is there twice"),
        ({'numeric': ('click',)}, 'labels', "no features ('click')"),
        ({'columns': ('age', 'city')}, 'columns', "'click' is missing"),
        ({'columns': ('age', 'click')}, 'columns', "'city' is missing"),
        ({'columns': ('age', 'city', 'click', 'age')}, 'columns', 'twice'),
        ({'min_count': 0}, 'min_count', 'at least 1'),
        (
            {'labels': ({**LABEL, 'target': 'binary'},)},
            'labels[0].target.positive',
            'at least one',
        ),
        (
            {
                'labels': (
                    {**LABEL, 'target': {'name': 'classes', 'positive': ()}},
                )
            },
            'labels[0].target.positive',
            "'classes' has no such option (it is one of binary)",
        ),
        (
            {'labels': ({**LABEL, 'target': 'rank'},)},
            'labels[0].target.name',
            'one of binary',
        ),
        ({'buckets': 3}, 'buckets', '0, as there are no hashed'),
    ],
)
def test_refused(changes, field, words):
    with pytest.raises(ConfigError) as caught:
        schema(**changes)
    assert caught.value.field == f'config.{field}'
    assert words in caught.value.allowed


def test_columns_of_a_schema():
    where = {'column': 'shown', 'values': ['1']}
    made = schema(
        categorical=('city', 'hour', 'home', 'shop'),
        shared=(('city', 'home'),),
        hashed=('home', 'shop'),
        buckets=4,
        labels=({**LABEL, 'where': where}, {**LABEL, 'name': 'again'}),
        user='who',
    )
    assert made.features == ('age', 'city', 'hour', 'home', 'shop')
    assert made.others == ('click', 'shown', 'who')
    # One column of a group is hashed, and so is the group.
    assert made.table_of == ('city', 'hour', 'city', 'shop')
    assert made.hashed_tables == {'city', 'shop'}

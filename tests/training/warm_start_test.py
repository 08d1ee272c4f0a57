"""What a run takes of another, leaf by leaf, by rules."""

import pytest

from moe.config import ConfigError
from moe.training.init_from import InitFrom
from moe.training.record import Leaf, Record
from moe.training.warm_start import assign, table

F32 = 'float32'


class Struct:
    """A shape, as `jax.ShapeDtypeStruct`."""

    def __init__(self, *shape, dtype=F32):
        self.shape, self.dtype = shape, dtype


# A tree of this run, and the leaves of another.
HERE = {
    'params': {
        'embedding': Struct(5, 2),
        'head': Struct(2, 5),
        'stack': {'a': {'router': Struct(2, 3), 'up': Struct(2, 4)}},
    },
    'model_state': {'router_state': {'a': Struct(3)}},
    'opt_state': {'mu': Struct(5, 2)},
    'step': Struct(dtype='int32'),
}
THERE = {
    'params/embedding': Leaf(F32, (4, 2), ''),
    'params/head': Leaf(F32, (2, 5), ''),
    'params/old/b/router': Leaf(F32, (2, 3), ''),
    'params/old/b/up': Leaf(F32, (2, 4), ''),
    'opt_state/mu': Leaf(F32, (5, 2), ''),
    'step': Leaf('int32', (), ''),
}
WHERE = {
    'params/embedding': 'embedding',
    'params/head': 'head',
    'params/stack/a/router': 'router',
    'params/stack/a/up': 'other',
}


def rows(rules, **options):
    given = InitFrom(run='x', map=rules, **options)
    found = assign(given, Record(7, None, THERE), HERE, WHERE)
    return {row.name: (row.kind, row.source) for row in found}


@pytest.mark.parametrize(
    'stack', [{'stack/a': 'old/b'}, {'stack/a/*': 'old/b/*'}], ids=str
)
def test_rules(stack):
    found = rows({'embedding': 'resize', 'router_state': 'new', **stack})
    assert found == {
        'params/embedding': ('resized', 'params/embedding'),
        'params/head': ('taken', 'params/head'),
        'params/stack/a/router': ('taken', 'params/old/b/router'),
        'params/stack/a/up': ('taken', 'params/old/b/up'),
        'model_state/router_state/a': ('new', None),
    }


def test_a_part_of_its_own():
    # The rule of the part stands first; the state of the router is of it.
    found = rows({'router': 'new', 'embedding': 'new', 'stack/a': 'old/b'})
    assert found['params/stack/a/router'] == ('new', None)
    assert found['model_state/router_state/a'] == ('new', None)
    assert found['params/stack/a/up'] == ('taken', 'params/old/b/up')
    assert found['params/old/b/router'] == ('left', 'params/old/b/router')
    assert found['params/embedding'] == ('left', 'params/embedding')


@pytest.mark.parametrize(
    ('rules', 'field', 'allowed'),
    [
        (
            {'router_state': 'new'},
            'map.embedding',
            'new, resize: embedding is float32[4, 2] there and float32[5, 2]',
        ),
        (
            {'embedding': 'resize', 'router_state': 'new'},
            'map.stack/a/router',
            'new, or the name of another there: stack/a/router is absent there',
        ),
        (
            {'embedding': 'head', 'router_state': 'new'},
            'map.embedding',
            'head is float32[2, 5] there and float32[5, 2] here',
        ),
        (
            {
                'embedding': 'new',
                'router_state': 'new',
                'stack/a': 'old/b',
                'stack/b': 'new',
            },
            'map.stack/b',
            'absent: this run has no such parameter or part',
        ),
    ],
    ids=str,
)
def test_what_differs_needs_a_rule(rules, field, allowed):
    with pytest.raises(ConfigError) as caught:
        rows(rules)
    assert caught.value.field == field
    assert allowed in caught.value.allowed


def test_table():
    rules = {'embedding': 'resize', 'router': 'new', 'stack/a': 'old/b'}
    given = InitFrom(run='x', map=rules)
    found = assign(given, Record(7, None, THERE), HERE, WHERE)
    assert table(found) == [
        'new      router_state/a  float32[3]',
        'resized  embedding       float32[5, 2]  from [4, 2]',
        'taken    head            float32[2, 5]',
        'new      stack/a/router  float32[2, 3]',
        'taken    stack/a/up      float32[2, 4]  from old/b/up',
        'left     old/b/router    float32[2, 3]',
    ]


@pytest.mark.parametrize(
    ('shape', 'kind'), [((4, 2), 'interpolated'), ((9, 2), 'taken')]
)
def test_a_grid_of_positions_needs_no_rule(shape, kind):
    # Four patches become nine.
    there = {'params/at': Leaf(F32, shape, '')}
    here = {'params': {'at': Struct(9, 2)}}
    record, given = Record(7, None, there), InitFrom(run='x')
    args = (record, here, {'params/at': 'embedding'}, {'params/at'})
    (row,) = assign(given, *args)
    assert row.kind == kind
    ends = {'interpolated': '  from [4, 2]', 'taken': ''}
    assert table([row]) == [f'{kind}  at  float32[9, 2]{ends[kind]}']
    given = InitFrom(run='x', map={'at': 'new'})
    assert [row.kind for row in assign(given, *args)] == ['new', 'left']


@pytest.mark.parametrize('shape', [(5, 2), (6, 2), (4, 3)])
def test_a_grid_that_does_not_fit_needs_one(shape):
    there = {'params/at': Leaf(F32, shape, '')}
    here = {'params': {'at': Struct(9, 2)}}
    args = (Record(7, None, there), here, {'params/at': ''}, {'params/at'})
    with pytest.raises(ConfigError) as caught:
        assign(InitFrom(run='x'), *args)
    assert caught.value.field == 'map.at'
    assert 'new, resize: at is ' in caught.value.allowed

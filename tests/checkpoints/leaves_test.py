"""Which layers the parts of a leaf are of."""

import pytest

from moe.checkpoints.leaves import Place, in_mixture, name_of, place_of
from tests import tiny

# D M D M: one scan of two repetitions. D D D M: three dense layers, then one.
PERIOD = {'num_layers': 4, 'moe_every': 2}
FIRST = {'num_layers': 4, 'moe_every': 1, 'dense_layers': (0, 1, 2)}


@pytest.mark.parametrize(
    ('changes', 'name', 'layers'),
    [
        (PERIOD, 'layers/block_1/moe/router', (1, 3)),
        (PERIOD, 'layers/block_0/mlp/up', (0, 2)),
        (FIRST, 'layers_0/block_0/mlp/up', (0, 1, 2)),
        (FIRST, 'layers_1/block_0/moe/router', (3,)),
    ],
    ids=str,
)
def test_layers(changes, name, layers):
    model = tiny.model(changes)
    scan, block, rest = name.split('/', 2)
    begin = 'params/stack/'
    assert place_of(model, begin + name) == Place(begin, layers, rest)
    for repeat, layer in enumerate(layers):
        found = name_of(model, begin, layer, rest)
        assert found == (f'{begin}{scan}/{block}/{rest}', repeat)


def test_states_of_routers():
    name = 'model_state/router_state/stack/layers/block_0/moe/bias'
    place = place_of(tiny.model(), name)
    begin = 'model_state/router_state/stack/'
    assert place == Place(begin, (0, 1), 'moe/bias')


@pytest.mark.parametrize('name', ['params/embedding', 'params/norm/scale'])
def test_outside_of_the_stack(name):
    assert place_of(tiny.model(), name) is None


def test_in_a_mixture():
    assert in_mixture('moe/router') == 'router'
    assert in_mixture('moe/mixture/experts/up') == 'experts/up'
    assert in_mixture('moe/shared/up') == 'shared/up'
    assert in_mixture('mlp/up') is None

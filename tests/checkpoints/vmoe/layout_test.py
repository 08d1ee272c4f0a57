"""The model of V-MoE's arrays, read from their shapes."""

import numpy as np

from moe.checkpoints.vmoe.layout import made, read_model
from tests.checkpoints.vmoe import written


def test_without_a_class_token_the_head_reads_the_mean():
    params = written.parameters(1, (), token=False, pre_logits=False)
    found = read_model({name: x.shape for name, x in params.items()})
    assert found['pool'] == 'mean'
    assert 'head_hidden' not in found
    names = ('position', 'embedding/bias', 'cls')
    values = (np.ones((1, 9, 8)), np.full(8, 2.0), None)
    read = dict(zip(names, values, strict=True))
    position = made('params/position_embedding', list(names), read.get)
    np.testing.assert_array_equal(position, np.full((9, 8), 3.0))


def test_where_the_published_mixtures_are():
    # S/32 of the last two odd blocks of eight, and every odd one.
    def of(layers, mixtures):
        params = written.parameters(layers, mixtures)
        found = read_model({name: x.shape for name, x in params.items()})
        names = ('moe_every', 'moe_last', 'dense_layers')
        return {n: found[n] for n in names if n in found}

    assert of(8, (5, 7)) == {'moe_every': 2, 'moe_last': 2}
    assert of(4, (1, 3)) == {'moe_every': 2}
    assert of(3, (0,)) == {'moe_every': 1, 'dense_layers': [1, 2]}
    assert of(2, ()) == {'moe_every': 0}

"""Gates: the routers that rows of a table can serve."""

import pytest

from moe.config import ConfigError, name_of, parse, to_plain
from moe.layers.multitask import softmax
from moe.routing import ROUTERS, top_k
from moe.types import traits
from moe.workloads.multitask.gates import GATES, GateConfig


def test_are_the_routers_that_need_nothing_but_logits_and_noise():
    assert GATES.keys() - ROUTERS.keys() == {'softmax'}
    assert ROUTERS.keys() - GATES.keys() == {
        *('expert_choice', 'soft'),  # other examples
        'hash',  # ids
        *('sigmoid', 'group_limited', 'relu'),  # state
    }
    assert len(GATES) == len(list(GATES))
    assert GATES.name_of(top_k) == 'top_k'
    assert GATES.name_of(softmax) == 'softmax'


def test_a_router_of_a_plugin_is_a_gate_if_it_can_be(monkeypatch):
    monkeypatch.setattr(ROUTERS, '_entries', dict(ROUTERS._entries))

    @ROUTERS.register('mine')
    @traits(reads={'noise_logits'})
    def mine(logits, context, *, sharpness: float = 2.0):
        return logits, context, sharpness

    ROUTERS.register('later')(traits(looks_ahead='always')(lambda *_: None))
    gate = parse(GateConfig, {'router': {'name': 'mine', 'sharpness': 3.0}})
    assert name_of(gate.router) == 'mine'
    assert gate.options()['router'].keywords == {'sharpness': 3.0}
    section = to_plain(GateConfig, gate)['router']
    assert section == {'name': 'mine', 'sharpness': 3.0}
    with pytest.raises(ConfigError, match='one of '):
        parse(GateConfig, {'router': 'later'})


def test_dropout_leaves_an_expert():
    gate = parse(GateConfig, {})
    assert name_of(gate.router) == 'softmax'
    assert (gate.temperature, gate.dropout) == (1.0, 0.0)
    with pytest.raises(ConfigError, match=r'dropout = 1.0: must be less than'):
        parse(GateConfig, {'dropout': 1.0})

"""docs/reference/routers.md: its table is measured."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest

from moe.config import parse
from moe.dispatch import DISPATCHERS
from moe.layers import LOSSES, MoEConfig
from moe.routing import ROUTERS, sigmoid, top_k
from moe.types import traits_of
from tests.routing import common, table

pytestmark = pytest.mark.slow

LOOKS_AHEAD = {'yes': 'never', 'in evaluation': 'in training', 'no': 'always'}


def written_rows():
    """Name to line of the table on the page, without its head."""
    lines = table.written().splitlines()[2:]
    return {re.match(r'\| `(\w+)`', line)[1]: line for line in lines}


def test_the_table_has_every_router_in_order():
    assert list(written_rows()) == sorted(ROUTERS)
    head = table.written().splitlines()[:2]
    assert head == table.render({}).splitlines()


@pytest.mark.parametrize('name', ROUTERS)
def test_the_table_is_what_is_measured(name):
    cells = table.row(name)
    line = table.render({name: cells}).splitlines()[-1]
    assert line == written_rows()[name], 'python -m tests.routing.table'
    assert traits_of(ROUTERS[name]).looks_ahead == LOOKS_AHEAD[cells[-2]]


def test_the_measures_can_say_no(monkeypatch):
    # A router that reads its key in evaluation, and an dispatcher that errs.
    def coin(logits, context):
        key = jax.random.key(0) if context.key is None else context.key
        flip = jax.random.uniform(key, logits.shape)
        return top_k(logits + flip, context)

    common.register(monkeypatch, ROUTERS, 'coin', coin)
    assert not table.is_deterministic('coin')

    def twice(*args):
        y, kept = DISPATCHERS['indexed'](*args)
        return 2 * y, kept

    common.register(monkeypatch, DISPATCHERS, 'grouped', twice)
    assert table.serving('round_robin') == ['indexed', 'onehot']


def test_drops_leak_from_second_choices():
    # What the page says of capacity in causal models.
    full = {'capacity_factor': 0.75, 'eval_capacity_factor': 0.75}
    for train in (True, False):
        assert not table.is_causal('top_k', train, **full)
        assert table.is_causal('switch', train, **full)
        by_confidence = {**full, 'batch_prioritized': True}
        assert not table.is_causal('switch', train, **by_confidence)


def test_l1_reaches_gates_whose_sum_can_change(monkeypatch):
    for router in (top_k, sigmoid):
        for options in ({'renormalize': False}, {'k': 1}):
            free = functools.partial(router, **options)
            common.register(monkeypatch, ROUTERS, 'free', free)
            assert 'l1' in table.reaching('free')


@pytest.mark.parametrize('groups', [0, 2])
def test_options_go_with_every_router(groups):
    # Traced: all of them at once, in a layer of one level and of two.
    capacity = {'name': 'factor', 'train': 1.0, 'prioritized': True}
    section = {
        'num_experts': 16,
        'experts': {'name': 'mlp', 'hidden': 4},
        'hierarchy': {'groups': groups} if groups else None,
        'jitter': 0.01,
        'capacity': capacity,
        'shared': {
            'network': {'name': 'mlp', 'hidden': 4},
            'gate': 'sigmoid',
        },
        'zero_computation': {'zero': 2, 'copy': 1, 'constant': 1},
    }
    x, ids = jnp.zeros((2, 8, 4)), jnp.zeros((2, 8), jnp.int32)

    def run(layer):
        keys = {'params': table.KEYS[0], 'router': table.KEYS[1]}
        return layer.init_with_output(keys, x, token_ids=ids, train=True)[0]

    for name in common.ASSIGNING:
        router = {'name': name}
        given = {**section, 'router': router}
        if name == 'expert_choice':  # has a capacity of its own
            del given['capacity']
        layer = parse(MoEConfig, given).build('float32', 1.0)
        y, aux = jax.eval_shape(lambda layer=layer: run(layer))
        assert y.shape == x.shape
        assert sorted(aux.losses) == sorted(LOSSES)

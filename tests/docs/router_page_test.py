"""Routers of the how-to page and of README: they have the properties of all."""

import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.config import ConfigError, options
from moe.dispatch import DISPATCHERS
from moe.losses import AUXILIARY_LOSSES
from moe.routing import ROUTERS
from moe.training.step import make_train_step
from moe.types import Context, states_of
from tests import tiny
from tests.docs.blocks import ROOT, blocks, write_files
from tests.routing import all_routers_test, table

pytestmark = pytest.mark.slow

PAGE = ROOT / 'docs' / 'how-to' / 'add-a-router.md'
NAME = 'near_best'


@pytest.fixture
def near_best(folder, own_registries, monkeypatch):
    """The router of the page, registered, without its loss."""
    write_files(PAGE, folder)
    module = importlib.import_module(NAME)
    # The losses that are computed by hand there are the library's.
    monkeypatch.delitem(AUXILIARY_LOSSES._entries, 'impurity')
    monkeypatch.setitem(all_routers_test.STATES, NAME, 'ratio')
    monkeypatch.setitem(all_routers_test.VALUES, 'ratio', np.float32(0.4))
    return module.near_best


@pytest.mark.parametrize(
    'check',
    [
        all_routers_test.test_equals_the_loop_with_every_dispatcher,
        all_routers_test.test_masked_token_influences_nothing,
        all_routers_test.test_permuting_tokens_permutes_outputs,
        all_routers_test.test_evaluation_is_deterministic,
    ],
    ids=lambda check: check.__name__.removeprefix('test_'),
)
@pytest.mark.usefixtures('near_best')
def test_the_router_has_the_property(check):
    check(NAME)


@pytest.mark.usefixtures('near_best')
def test_the_router_has_a_row():
    cells = table.row(NAME)
    losses = {'importance', 'l1', 'load_balance', 'router_z'}
    assert losses <= set(re.findall(r'`(\w+)`', cells[2]))
    # It does not say that it can be replayed.
    assert cells[3:] == (
        *('`grouped`, `indexed`, `onehot`', 'yes', 'yes', 'no'),
    )
    assert cells[0].startswith('Every expert at least `ratio` times as likely')


def test_the_router_chooses_by_its_formula(near_best):
    # Of probabilities 0.5, 0.3 and 0.2, and a ratio of 0.5: the first two.
    probs = jnp.array([[[0.2, 0.5, 0.3]]])
    context = Context(
        jnp.ones((1, 1), bool),
        jnp.zeros((1, 1), int),
        state={'ratio': jnp.float32(0.5)},
    )
    routing = near_best(jnp.log(probs), context, k=3)
    np.testing.assert_array_equal(routing.expert.ravel(), [1, 2, 0])
    np.testing.assert_array_equal(routing.valid.ravel(), [True, True, False])
    np.testing.assert_allclose(routing.weight.ravel()[:2], [0.5, 0.3], 1e-6)
    # Two experts of one token are more than the wanted 1.5.
    rule = states_of(near_best)['ratio']
    assert rule.wanted == options(near_best)['experts_per_token']
    rule = type(rule)(wanted=1.5, rate=0.1)
    statistic = rule.statistic(routing, jnp.float32(0.5))
    assert [float(part) for part in statistic] == [2.0, 1.0]
    ratio = rule.update(jnp.float32(0.5), statistic)
    np.testing.assert_allclose(ratio, 0.5 * np.exp(0.1), 1e-6)


@pytest.mark.usefixtures('near_best')
def test_a_wrong_option_names_the_nearest():
    with pytest.raises(ConfigError, match='nearest: rate') as caught:
        tiny.parsed({'model.moe.router': {'name': NAME, 'ratee': 0.5}})
    assert '\n' not in str(caught.value)


@pytest.mark.usefixtures('near_best')
def test_a_model_with_the_router_trains():
    config = tiny.parsed({'model.moe.router': {'name': NAME}})
    state = tiny.state(config)
    before = state.params
    tokens = np.random.default_rng(0).integers(0, 256, (8, 17), np.uint8)
    # The first step of the warm-up has a learning rate of 0.
    step = jax.jit(make_train_step(config))
    for _ in range(2):
        state, metrics = step(state, tokens)
    assert all(np.all(np.isfinite(m)) for m in jax.tree.leaves(metrics))
    moved = jax.tree_util.tree_map_with_path(
        lambda path, a, b: 'router' not in str(path) or bool(np.any(a != b)),
        before,
        state.params,
    )
    assert all(jax.tree.leaves(moved))


def test_the_router_of_the_readme_works(folder, own_registries):
    readme = ROOT / 'README.md'
    (block,) = (b for b in blocks(readme) if b.title == 'greedy.py')
    assert len(block.text.splitlines()) < 30
    write_files(readme, folder)
    importlib.import_module('greedy')
    assert table.serving('greedy') == list(DISPATCHERS)
    assert table.reaching('greedy')
    assert table.is_deterministic('greedy')
    assert 'greedy' in ROUTERS

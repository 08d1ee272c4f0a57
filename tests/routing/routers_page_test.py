"""docs/routers.md: its table is measured, its walk-through is run."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.config import ConfigError, parse
from moe.dispatch import DISPATCHERS
from moe.layers import LOSSES, MoEConfig
from moe.routing import ROUTERS, sigmoid, top_k
from moe.training.step import make_train_step
from moe.types import TokenChoice, traits_of
from tests import tiny
from tests.routing import all_routers_test, common, table

README = pathlib.Path(__file__).parents[2] / 'README.md'
LOOKS_AHEAD = {'yes': 'never', 'in evaluation': 'in training', 'no': 'always'}
NAME = 'near_best'


def block(mark):
    """A code block of the page, by what stands after its fence."""
    (found,) = re.findall(
        rf'^```{mark}\n(.*?)^```$', table.PAGE.read_text(), re.M | re.S
    )
    return found


def executed(source, **names):
    """What a piece of Python defines."""
    namespace = {'__name__': NAME, **names}
    exec(compile(source, table.PAGE.name, 'exec'), namespace)
    return namespace


@pytest.fixture
def registered(monkeypatch):
    """The router of the walk-through, in a copy of the registry's entries."""
    monkeypatch.setattr(ROUTERS, '_entries', dict(ROUTERS._entries))
    return executed(block('python router'))[NAME]


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
    assert traits_of(ROUTERS[name]).looks_ahead == LOOKS_AHEAD[cells[-1]]


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
        if name == 'replay':  # a config has no recording to give
            with pytest.raises(ConfigError, match='without recorded'):
                parse(MoEConfig, given)
            continue
        if name == 'expert_choice':  # has a capacity of its own
            del given['capacity']
        layer = parse(MoEConfig, given).build('float32', 1.0)
        y, aux = jax.eval_shape(lambda layer=layer: run(layer))
        assert y.shape == x.shape
        assert sorted(aux.losses) == sorted(LOSSES)


def test_the_router_is_short():
    lines = block('python router').splitlines()
    assert len(lines) < 30
    assert max(map(len, lines)) <= 80


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
@pytest.mark.usefixtures('registered')
def test_the_router_has_the_property(check):
    check(NAME)


def test_the_router_has_a_row(registered):
    cells = table.row(NAME)
    losses = {'importance', 'l1', 'load_balance', 'router_z'}
    assert losses <= set(re.findall(r'`(\w+)`', cells[2]))
    assert cells[3:] == ('`grouped`, `indexed`, `onehot`', 'yes', 'yes')
    assert cells[0] == registered.__doc__.splitlines()[0]


def test_the_router_chooses_by_its_formula(registered):
    # Of probabilities 0.5, 0.3 and 0.2, and a ratio of 0.5: the first two.
    probs = jnp.array([[[0.2, 0.5, 0.3]]])
    context = table.Context(jnp.ones((1, 1), bool), jnp.zeros((1, 1), int))
    routing = registered(jnp.log(probs), context, k=3)
    np.testing.assert_array_equal(routing.expert.ravel(), [1, 2, 0])
    np.testing.assert_array_equal(routing.valid.ravel(), [True, True, False])
    np.testing.assert_allclose(routing.weight.ravel()[:2], [0.5, 0.3], 1e-6)


def test_the_page_uses_the_router_as_a_config_names_it(registered):
    names = executed(block('python use'))
    assert names['config'].router.func is registered
    dispatchers = [layer.dispatcher for layer in names['layers']]
    assert dispatchers == list(DISPATCHERS.values())
    x = jax.ShapeDtypeStruct((2, 8, 4), jnp.float32)
    for layer in names['layers']:
        initialize = layer.init_with_output
        (y, aux), _ = jax.eval_shape(initialize, jax.random.key(0), x)
        assert y.shape == x.shape
        assert sorted(aux.losses) == sorted(LOSSES)


@pytest.mark.usefixtures('registered')
def test_a_wrong_option_is_refused_in_the_line_on_the_page():
    (line,) = re.findall(r'^train\.py: (.*)$', table.PAGE.read_text(), re.M)
    with pytest.raises(ConfigError) as caught:
        tiny.parsed({'model.moe.router': {'name': NAME, 'ratio': 1.5}})
    assert str(caught.value) == line
    with pytest.raises(ConfigError, match='nearest: ratio') as caught:
        tiny.parsed({'model.moe.router': {'name': NAME, 'ration': 0.5}})
    assert '\n' not in str(caught.value)


@pytest.mark.usefixtures('registered')
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


def test_the_router_of_the_readme_works(monkeypatch):
    section = README.read_text().split('## Write a router')[1]
    source = re.search(r'```python\n(.*?)```', section, re.S)[1]
    names = executed(source, jax=jax, jnp=jnp, TokenChoice=TokenChoice)
    common.register(monkeypatch, ROUTERS, 'greedy', names['greedy'])
    assert table.serving('greedy') == list(DISPATCHERS)
    assert table.reaching('greedy')
    assert table.is_deterministic('greedy')

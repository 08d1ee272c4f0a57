"""The two-level mixture against a recorded run and loops in float64."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.config import ConfigError
from moe.dispatch import DISPATCHERS
from moe.experts import MLP
from moe.layers import HierarchicalMoE, MoE
from moe.layers.auxiliary import load_balance
from moe.routing import (
    ROUTERS,
    top2,
    top_k,
)
from tests import tiny
from tests.reference import experts as reference_experts
from tests.reference import layer as reference_layer
from tests.reference import routing as reference_routing
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow

FILE = pathlib.Path(__file__).parents[1] / 'goldens' / 'top2_moe.json'
# Groups of experts, experts in each, tokens [G, S], width, hidden width.
M, E, G, S, D, F = 3, 4, 2, 6, 4, 3
VOCABULARY = 16
MASK = np.array([[1, 0, 1, 1, 1, 0], [0, 1, 0, 0, 1, 1]], bool)


@pytest.mark.parametrize('dispatcher', DISPATCHERS)
def test_reproduces_the_recorded_run(dispatcher):
    # Two groups of three experts; 16 tokens, capacity 1.25 at both levels.
    data = json.loads(FILE.read_text())['hier_all']
    router = functools.partial(top2, policy='all', eval_policy='all')
    padded = functools.partial(load_balance, scope='padded')
    inner = MoE(
        MLP(hidden=5, num_experts=3, activation='relu'),
        router=router,
        dispatcher=dispatcher,
        capacity_factor=1.25,
        min_capacity=4,
        capacity_rule='tokens',
        losses={'load_balance': padded},
    )
    layer = HierarchicalMoE(inner, 2, router)

    def objective(params, x):
        y, aux = layer.apply({'params': params}, x, train=True)
        loss = data['config']['loss_coef'] * aux.losses['load_balance']
        return jnp.sum(y**2) + 100 * loss, (y, loss)

    def tree(recorded):
        array = lambda name: np.array(recorded[name])
        experts = {'up': array('experts.w1'), 'down': array('experts.w2')}
        return {
            'outer': {'router': array('gate_outer.w_gating')},
            'inner': {
                'router': array('gate_inner.w_gating'),
                'experts': experts,
            },
        }

    run = jax.jit(jax.grad(objective, argnums=(0, 1), has_aux=True))
    single = functools.partial(jax.tree.map, np.float32)
    x = np.array(data['x'])
    (d_params, d_x), (y, loss) = run(single(tree(data['params'])), single(x))
    assert_close(y, np.array(data['y']), 1e-5)
    desired = np.float64(data['aux_loss_times_coef'])
    assert_close(loss, desired, 1e-5, scale=desired)
    assert_close(jax.device_get(d_params), tree(data['grads']), 1e-5)
    assert_close(d_x, np.array(data['grad_x']), 1e-5)


X, DY = tiny.numbers((G, S, D), 0), tiny.numbers((G, S, D), 1)
TOKEN_IDS = np.random.default_rng(2).integers(0, VOCABULARY, (G, S), np.int32)


def build(outer, inner=None, dispatcher='indexed', **options):
    """A layer of routers; `num_groups` is of the layer, the rest of MoE."""
    num_groups = options.pop('num_groups', None)
    experts = MLP(hidden=F, num_experts=E)
    mixture = MoE(experts, inner or outer, dispatcher=dispatcher, **options)
    return HierarchicalMoE(mixture, M, outer, num_groups)


def variables_of(layer):
    """Random parameters and a state that is not at rest."""
    shapes = jax.eval_shape(
        lambda: layer.init(
            {'params': jax.random.key(0), 'router': jax.random.key(1)},
            X,
            token_ids=TOKEN_IDS,
        )
    )
    leaves, tree = jax.tree.flatten_with_path(shapes)
    filled = [
        np.full(leaf.shape, 0.25, np.float32)
        if path[-1].key == 'penalty'
        else tiny.numbers(
            leaf.shape, 10 + i, 0.2 if 'bias' in str(path) else 0.7
        )
        for i, (path, leaf) in enumerate(leaves)
    ]
    return jax.tree.unflatten(tree, filled)


def by_loop(params, mask, k_outer, k_inner):
    """Outputs, and of each group the tokens, choices and logits it saw."""
    wide = jax.tree.map(np.float64, params)
    y, seen = np.zeros((G, S, D)), [[] for _ in range(M)]
    outer = []
    select = functools.partial(
        reference_routing.softmax_then_select, renormalize=True
    )
    for g, s in np.argwhere(mask):
        x = np.float64(X[g, s])
        logits = x @ wide['outer']['router']
        groups, weights = select(logits, k_outer)
        outer.append((logits, groups))
        for m, weight in zip(groups, weights, strict=True):
            logits = x @ wide['inner']['router'][m]
            chosen, gates = select(logits, k_inner)
            seen[m].append((logits, chosen))
            for e, gate in zip(chosen, gates, strict=True):
                expert = {
                    n: v[m, e] for n, v in wide['inner']['experts'].items()
                }
                out = reference_experts.mlp(x, expert, 'swiglu')
                y[g, s] += weight * gate * out
    return y, outer, seen


def losses_of(rows, size):
    """(balance, z) of one router's (logits, chosen)."""
    counts = np.zeros((1, size))
    for _, chosen in rows:
        counts[0, chosen] += 1
    logits = np.array([[row for row, _ in rows]])
    probs = np.array([[reference_routing.softmax(r) for r, _ in rows]])
    mask = np.ones(probs.shape[:2], bool)
    balance = reference_layer.load_balance(probs, counts, mask, 'global')
    return counts[0], balance, reference_layer.router_z(logits, mask)


@pytest.mark.parametrize(
    ('k_outer', 'k_inner', 'num_groups'), [(2, 2, None), (1, 3, 1), (3, 1, 3)]
)
def test_dropless_equals_the_loop(k_outer, k_inner, num_groups):
    outer = functools.partial(top_k, k=k_outer)
    inner = functools.partial(top_k, k=k_inner)
    layer = build(outer, inner, num_groups=num_groups)
    variables = variables_of(layer)
    y, aux = jax.jit(layer.apply)(variables, X, mask=MASK)
    desired, rows, seen = by_loop(variables['params'], MASK, k_outer, k_inner)
    assert_close(y, desired, 5e-6)
    load, balance, z = losses_of(rows, M)
    inner = [losses_of(r, E) for r in seen if r]
    balance += np.mean([b for _, b, _ in inner])
    z += np.mean([z for *_, z in inner])
    losses = {'load_balance': balance, 'router_z': z}
    got = {name: aux.losses[name] for name in losses}
    assert_close(got, losses, 5e-6)
    # Every assignment of every live token is in the load, whose mean is 1.
    counts = np.concatenate([losses_of(r, E)[0] for r in seen])
    total = MASK.sum() * k_outer * k_inner
    assert counts.sum() == total
    np.testing.assert_allclose(np.sum(aux.stats['load']), M * E, rtol=1e-6)
    stats = {
        'load': counts * M * E / total,
        'load_max': counts.max() * M * E / total,
        'load_min': counts.min() * M * E / total,
        'load_cv': counts.std() / counts.mean(),
        'max_violation': counts.max() * M * E / total - 1,
        'dead_experts': np.sum(counts == 0),
        'dropped': 0,
        'experts_per_token': k_outer * k_inner,
        'outer_load': load * M / (MASK.sum() * k_outer),
        'outer_experts_per_token': k_outer,
        'inner_experts_per_token': [k_inner if r else 0 for r in seen],
    }
    got = {name: aux.stats[name] for name in stats}
    assert_close(got, stats, 5e-6)


def test_executors_agree_when_slots_are_few():
    # 6*2*.75/3 = 3 slots a group of experts; 3*2*.75/4 = 1.125, so 2 inside.
    router = functools.partial(top_k, k=2)
    options = {'capacity_factor': 0.75, 'batch_prioritized': True}
    results = []
    for dispatcher in ('indexed', 'grouped'):
        layer = build(router, dispatcher=dispatcher, **options)
        call = functools.partial(layer.apply, train=True)
        y, aux = jax.jit(call)(variables_of(layer), X, mask=MASK)
        results.append((y, dict(aux.losses), dict(aux.stats)))
    assert_close(results[1], results[0], 2e-6)
    assert 0 < results[0][2]['dropped'] < 1


OPTIONS = {
    'expert_choice': {'capacity_factor': 1.5},
    'hash': {'k': 2, 'vocab_size': VOCABULARY},
    'relu': {'k': 2},
}


def router_of(name):
    return functools.partial(ROUTERS[name], **OPTIONS.get(name, {}))


PAIRS = [
    ('sigmoid', 'relu'),
    ('hash', 'top_k'),
    ('noisy_top_k', 'sigmoid'),
    ('relu', 'expert_choice'),
    ('expert_choice', 'top2'),
    ('switch', 'noisy_top_k'),
]


@pytest.mark.parametrize(('outer', 'inner'), PAIRS)
def test_any_router_at_either_level(outer, inner):
    layer = build(router_of(outer), router_of(inner), capacity_factor=1.0)
    variables = variables_of(layer)
    state = {k: v for k, v in variables.items() if k != 'params'}

    def objective(params, x, ids):
        y, aux = layer.apply(
            {'params': params, **state},
            x,
            mask=MASK,
            token_ids=ids,
            train=True,
            rngs={'router': jax.random.key(3)},
        )
        total = jnp.sum(y * DY) + sum(aux.losses.values())
        return total, (y, aux.losses, aux.stats)

    program = jax.jit(
        jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
    )
    run = lambda x, ids: jax.device_get(program(variables['params'], x, ids))
    one = run(X, TOKEN_IDS)
    for leaf in jax.tree.leaves(one):
        assert np.all(np.isfinite(leaf))
    (_, (y, _, _)), (d_params, d_x) = one
    assert not np.any(y[~MASK])
    assert not np.any(d_x[~MASK])
    assert np.any(y[MASK])
    assert np.any(d_x[MASK])
    assert np.any(d_params['inner']['experts']['up'])
    # What padding holds changes not a bit.
    for garbage in (1e3, np.nan):
        x = np.where(MASK[..., None], X, np.float32(garbage))
        two = run(x, np.where(MASK, TOKEN_IDS, 3))
        jax.tree.map(np.testing.assert_array_equal, two, one)


def test_nothing_live():
    layer = build(router_of('top_k'))
    params = variables_of(layer)

    def objective(params, x):
        y, aux = layer.apply(params, x, mask=np.zeros((G, S), bool))
        return jnp.sum(y * DY) + sum(aux.losses.values()), aux.stats

    (value, stats), gradients = jax.jit(
        jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
    )(params, X)
    assert value == 0
    for leaf in jax.tree.leaves(gradients):
        assert not np.any(leaf)
    for leaf in jax.tree.leaves(stats):
        assert np.all(np.isfinite(leaf))


def test_two_levels_are_not_replayed():
    layer = build(router_of('sigmoid'), router_of('top2'))
    routes = jnp.zeros((*X.shape[:2], 2), jnp.int32)
    with pytest.raises(ConfigError, match='None for mixtures of two levels'):
        layer.init(jax.random.key(0), X, routes=routes)


def test_groups_of_experts_differ_at_first():
    layer = build(router_of('top_k'))
    init = jax.jit(layer.init)
    params = init(jax.random.key(0), X)['params']
    assert params['outer']['router'].shape == (D, M)
    assert params['inner']['router'].shape == (M, D, E)
    for leaf in jax.tree.leaves(params['inner']):
        for other in leaf[1:]:
            assert np.all(leaf[0] != other)


def test_tokens_that_do_not_divide_into_groups():
    layer = build(router_of('top_k'), num_groups=5)
    with pytest.raises(ValueError, match=r'12 tokens do not .* num_groups = 5'):
        layer.init(jax.random.key(0), X)


def test_bfloat16_is_of_the_experts_alone():
    # A few roundings of 2^-8 of outputs up to 2; all else stays float32.
    router = router_of('top_k')
    experts = MLP(hidden=F, num_experts=E, dtype=jnp.bfloat16)
    layer = HierarchicalMoE(MoE(experts, router), M, router)
    variables = variables_of(layer)
    x = jnp.asarray(X, jnp.bfloat16)
    y, aux = jax.jit(layer.apply)(variables, x, mask=MASK)
    assert y.dtype == jnp.bfloat16
    desired, *_ = by_loop(variables['params'], MASK, 2, 2)
    assert_close(y, desired, 3e-2)
    for leaf in jax.tree.leaves((aux, variables)):
        assert leaf.dtype == jnp.float32


def test_load_counts_assignments_whatever_their_number_a_token():
    layer = build(router_of('top_k'), router_of('relu'))
    call = functools.partial(layer.apply, record=True)
    _, aux = jax.jit(call)(variables_of(layer), X, mask=MASK)
    routing = jax.device_get(aux.routing[1])
    counts = np.zeros((M, E))
    for index in np.argwhere(routing.valid):
        counts[index[0], routing.expert[tuple(index)]] += 1
    tokens = routing.mask.sum((1, 2))
    # The groups' tokens differ in how many experts they have.
    assert len(set(counts.sum(1) / tokens)) > 1
    desired = counts.ravel() * M * E / counts.sum()
    assert_close(aux.stats['load'], desired, 2e-6)
    per_token = counts.sum() / MASK.sum()
    np.testing.assert_allclose(
        aux.stats['experts_per_token'], per_token, rtol=1e-6
    )

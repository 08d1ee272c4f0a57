"""Every router inside the layer, with every dispatcher, against the loops.

Only the experts are compiled as a whole: all the routers share the shapes, and
so the programs of the single operations.
"""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.dispatch import DISPATCHERS
from moe.experts import MLP
from moe.layers import MoE
from moe.routing import ROUTERS
from tests.grids import expert_of, token_of
from tests.reference import experts as reference_experts
from tests.reference import layer as reference_layer
from tests.reference import losses as reference_losses
from tests.reference import routing as reference_routing
from tests.reference import scenarios
from tests.reference.compare import assert_close
from tests.routing.common import ASSIGNING

pytestmark = pytest.mark.slow

E, VOCABULARY = 4, 16
GRID = (scenarios.GROUPS, scenarios.SIZE)
KEY = jax.random.key(5)
OPTIONS = {
    'expert_choice': {'capacity_factor': 1.5},
    'group_limited': {'k': 2, 'expert_groups': 2, 'chosen_groups': 1},
    'hash': {'k': 2, 'vocab_size': VOCABULARY},
    'relu': {'k': 2},
    'sigmoid': {'k': 2, 'scale': 1.5},
    'sinkhorn': {'k': 2, 'iterations': 4},
    'top2': {'threshold': 0.8},
    'top_p': {'k': 2, 'p': 0.6},
}
# Their choices depend on the position: in training, or always.
NOISY, BY_POSITION = ('noisy_top_k', 'top2'), ('random', 'round_robin')
UNTRAINED = ('hash', 'random', 'round_robin')
STATES = {'group_limited': 'bias', 'relu': 'penalty', 'sigmoid': 'bias'}
VALUES = {
    'bias': np.float32([0.2, -0.1, 0.0, -0.1]),
    'penalty': np.float32(0.25),
}
FACTOR = '.5'
Experts = nn.jit(MLP)


def router_of(name):
    return functools.partial(ROUTERS[name], **OPTIONS.get(name, {}))


def build(
    name, dispatcher='indexed', factor=None, dtype=jnp.float32, **options
):
    """The layer; the factor is of training and evaluation."""
    factor = None if factor is None else float(factor)
    experts = Experts(
        scenarios.HIDDEN, num_experts=E, use_bias=True, dtype=dtype
    )
    return MoE(
        experts,
        router=router_of(name),
        dispatcher=dispatcher,
        capacity_factor=factor,
        eval_capacity_factor=factor,
        **options,
    )


@functools.cache
def problem_of(seed=0, dtype=jnp.float32):
    """Tokens, parameters, token ids; the mask has padding in both groups."""
    options = {'num_experts': E, 'use_bias': True, 'dtype': dtype}
    return scenarios.problem('empty', seed, **options)


def variables_of(name, problem):
    """Parameters and state that a router has, with the state not at rest."""
    params = {'router': problem.router, 'experts': problem.experts}
    state = {}
    if name == 'noisy_top_k':
        params['router_noise'] = problem.router[::-1].copy()
    if name in STATES:
        state = {STATES[name]: VALUES[STATES[name]]}
    return {'params': params}, {'router_state': state} if state else {}


def token_ids(seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, VOCABULARY, GRID, np.int32)


def call(layer, name, problem, mask, train, key=KEY, x=None, **changed):
    """(y, aux) of one call, with all that any router may want."""
    x = problem.x if x is None else x
    params, state = changed.pop('variables', variables_of(name, problem))
    given = {'token_ids': token_ids(), 'mask': mask, **changed}
    return layer.apply(
        {**params, **state},
        x,
        train=train,
        record=True,
        rngs=None if key is None else {'router': key},
        **given,
    )


def kept_by_hand(routing, slots):
    live = np.asarray(routing.valid)
    kept = np.zeros(live.shape, bool)
    for g in range(len(live)):
        kept[g] = reference_routing.keep(expert_of(routing)[g], live[g], slots)
    return kept


def outputs_by_hand(problem, routing, kept):
    """Outputs y of the kept assignments; experts' gradients of sum(y dy)."""
    wide = scenarios.float64(problem)
    y, total = np.zeros(wide.x.shape), jax.tree.map(np.zeros_like, wide.experts)
    expert, token = expert_of(routing), token_of(routing)
    for g, n, m in np.argwhere(kept):
        e, s = expert[g, n, m], token[g, n, m]
        weight = np.float64(routing.weight[g, n, m])
        given = (wide.x[g, s], reference_experts.expert_of(wide.experts, e))
        y[g, s] += weight * reference_experts.mlp(*given, 'swiglu')
        _, gradients = reference_experts.mlp_gradients(
            *given, 'swiglu', weight * wide.dy[g, s]
        )
        for field, value in gradients.items():
            total[field][e] += value
    return y, total


def spread_by_hand(routing, values, live):
    """Sums [G, S, E] of values of the live assignments."""
    total = np.zeros(routing.probs.shape)
    expert, token = expert_of(routing), token_of(routing)
    for index in np.argwhere(live):
        at = tuple(index)
        total[at[0], token[at], expert[at]] += values[at]
    return total


def account_by_hand(name, routing, kept, mask):
    """Losses and statistics of a Routing."""
    ones, live = np.ones(routing.weight.shape), np.asarray(routing.valid)
    probs, logits = np.float64(routing.probs), np.float64(routing.logits)
    chosen = spread_by_hand(routing, ones, live)
    gates = spread_by_hand(routing, routing.weight, live)
    counted = chosen
    if routing.balance_mask is not None:
        counted = spread_by_hand(routing, ones, routing.balance_mask)
    chance = routing.selection_probability
    chance = chosen if chance is None else chance
    unbiased = counted
    if STATES.get(name) == 'bias':  # the K greatest logits
        order = np.argsort(-routing.logits, axis=-1, kind='stable')
        rank = np.argsort(order, axis=-1)
        unbiased = (rank < routing.weight.shape[1]) & mask[..., None]
    l1 = reference_losses.l1(gates, mask)
    if name == 'relu':
        every = np.maximum(logits, 0)
        load = np.mean(every[mask] > 0, axis=0) / (1 - 0.75)
        l1 = 0.25 * reference_losses.l1(every * load, mask)
    losses = {
        'load_balance': reference_layer.load_balance(
            probs, counted.sum(1), mask, 'global'
        ),
        'sequence_balance': reference_losses.sequence_balance(
            probs, unbiased, mask
        ),
        'router_z': reference_layer.router_z(logits, mask),
        'importance': reference_losses.importance(gates, mask),
        'load': reference_losses.load(np.float64(chance), mask),
        'l1': l1,
    }
    safe = np.maximum(probs, 1e-300)
    stats = reference_layer.statistics(safe, chosen.sum(1), kept, mask)
    stats['logit_rms'] = reference_layer.logit_rms(logits, mask)
    if name in STATES:
        stats[f'state/{STATES[name]}'] = VALUES[STATES[name]]
    return losses, stats


def objective(params, x, layer, name, problem, mask, train, state):
    """A sum of everything: all gradients meet in it."""
    variables = (params, state)
    y, aux = call(layer, name, problem, mask, train, x=x, variables=variables)
    total = jnp.sum(y.astype(jnp.float32) * problem.dy)
    weights = dict(zip(sorted(aux.losses), range(1, 9), strict=False))
    for loss, value in aux.losses.items():
        total += 0.1 * weights[loss] * value
    return total, (y, aux)


# train, bfloat16, capacity, mask: every three of them in every combination, in
# half the settings of all four.
SETTINGS = [
    (*three, sum(three) % 2 == 0)
    for three in itertools.product([False, True], repeat=3)
]


# Every two of the four in every combination.
FEW = [tuple(i != j for j in range(4)) for i in range(4)] + [4 * (False,)]


@pytest.mark.parametrize('name', ASSIGNING)
def test_equals_the_loop_with_every_dispatcher(name):
    equals_the_loop(name, FEW)


@pytest.mark.long
@pytest.mark.parametrize('name', ASSIGNING)
def test_equals_the_loop_in_more_settings(name):
    equals_the_loop(name, SETTINGS)


def equals_the_loop(name, settings):
    for train, narrow, limited, masked in settings:
        # It has a capacity of its own.
        limited = limited and name != 'expert_choice'
        dtype = jnp.bfloat16 if narrow else jnp.float32
        problem = problem_of(0, dtype)
        x = jnp.asarray(problem.x, dtype)
        mask = problem.mask if masked else None
        live = problem.mask if masked else np.ones(GRID, bool)
        params, state = variables_of(name, problem)
        args = (name, problem, mask, train, state)
        gradients = {}
        for dispatcher in DISPATCHERS:
            layer = build(name, dispatcher, FACTOR if limited else None, dtype)
            gradients[dispatcher], (y, aux) = jax.device_get(
                jax.grad(objective, argnums=(0, 1), has_aux=True)(
                    params, x, layer, *args
                )
            )
            routing = aux.routing
            slots = None
            if limited:
                slots = reference_routing.capacity(
                    GRID[1], E, routing.weight.shape[1], FACTOR
                )
            kept = kept_by_hand(routing, slots)
            desired, by_hand = outputs_by_hand(problem, routing, kept)
            assert y.dtype == dtype
            assert_close(y, desired, 2e-2 if narrow else 5e-6)
            found = gradients[dispatcher][0]['params']['experts']
            check_experts(found, by_hand, 4e-2 if narrow else 1e-5)
            assert not np.any(np.float32(y)[~live])
            check_routing(routing, live)
            losses, stats = account_by_hand(name, routing, kept, live)
            assert_close(dict(aux.losses), losses, 5e-6)
            assert_close(dict(aux.stats), stats, 5e-6)
            # Kept and dropped are the assigned; no expert has too many.
            dropped = aux.stats['dropped'] * routing.valid.sum()
            np.testing.assert_allclose(
                kept.sum() + dropped, routing.valid.sum(), rtol=1e-5
            )
            if slots is not None:
                each = spread_by_hand(routing, np.ones(kept.shape), kept)
                assert each.sum(1).max() <= slots
        check_gradients(name, gradients, live, 4e-2 if narrow else 1e-5)


def check_routing(routing, live):
    """What holds of every Routing."""
    assert routing.weight.dtype == routing.probs.dtype == np.float32
    assert routing.logits.dtype == np.float32
    np.testing.assert_array_equal(routing.mask, live)
    np.testing.assert_allclose(routing.probs.sum(-1)[live], 1, rtol=1e-5)
    assert np.all(np.isfinite(routing.weight))
    assert np.all(routing.weight[routing.valid] >= 0)
    expert = expert_of(routing)
    assert np.all((expert >= 0) & (expert < E))
    # Padding is in no assignment; a token meets an expert once at most.
    each = spread_by_hand(routing, np.ones(expert.shape), routing.valid)
    assert not np.any(each[~live])
    assert each.max() == 1


def check_experts(found, desired, tolerance):
    largest = max(np.abs(v).max() for v in desired.values())
    assert_close(found, desired, tolerance, scale=largest)


def check_gradients(name, gradients, live, tolerance):
    for tree in gradients.values():
        for leaf in jax.tree.leaves(tree):
            assert np.all(np.isfinite(np.float32(leaf)))
        assert not np.any(np.float32(tree[1])[~live])
        assert np.any(np.float32(tree[1])[live])
        trained = np.any(np.abs(tree[0]['params']['router']) > 1e-4)
        assert trained == (name not in UNTRAINED)
    first, *others = gradients.values()
    # Against the largest gradient: those of a bias may cancel.
    largest = max(np.max(np.abs(np.float32(g))) for g in jax.tree.leaves(first))
    for other in others:
        assert_close(other, first, tolerance, scale=largest)


@pytest.mark.parametrize('name', ASSIGNING)
def test_masked_token_influences_nothing(name):
    # Other numbers, NaN and ids in the padding: the same to the last bit.
    problem, factor = problem_of(), FACTOR
    mask = problem.mask
    for train, garbage in itertools.product([False, True], [1e3, np.nan]):
        layer = build(name, 'indexed', factor)
        ids = token_ids()
        x = np.where(mask[..., None], problem.x, np.float32(garbage))
        other = np.where(mask, ids, (ids + 3) % VOCABULARY)
        one = call(layer, name, problem, mask, train)
        two = call(layer, name, problem, mask, train, x=x, token_ids=other)
        assert_close(two[0], one[0], 0)
        assert_close(dict(two[1].losses), dict(one[1].losses), 0)
        assert_close(dict(two[1].stats), dict(one[1].stats), 0)
        # What moves the state, too.
        statistics = one[1].state_statistics
        assert bool(statistics) == (train and name in STATES)
        jax.tree.map(
            np.testing.assert_array_equal,
            two[1].state_statistics,
            statistics,
        )


def has_noise(name, train):
    return name in BY_POSITION or (train and name in NOISY)


@pytest.mark.parametrize('name', ASSIGNING)
def test_permuting_tokens_permutes_outputs(name):
    problem = problem_of()
    order = np.random.default_rng(0).permutation(GRID[1])
    for train in (False, True):
        if has_noise(name, train):
            continue
        layer = build(name)
        y, aux = call(layer, name, problem, problem.mask, train)
        changed = {'token_ids': token_ids()[:, order]}
        mask, x = problem.mask[:, order], problem.x[:, order]
        moved = call(layer, name, problem, mask, train, x=x, **changed)
        assert_close(moved[0], np.asarray(y)[:, order], 2e-6)
        assert_close(dict(moved[1].losses), dict(aux.losses), 5e-6)
        assert_close(dict(moved[1].stats), dict(aux.stats), 5e-6)


@pytest.mark.parametrize('name', [n for n in ASSIGNING if n not in UNTRAINED])
def test_permuting_experts_changes_nothing(name):
    # Drops included. The order keeps the pairs of group_limited together.
    problem, order = problem_of(), np.array([3, 2, 0, 1])
    params, state = variables_of(name, problem)
    params = {n: v for n, v in params['params'].items() if n != 'experts'}
    moved = {n: v[:, order] for n, v in params.items()}
    moved['experts'] = {n: v[order] for n, v in problem.experts.items()}
    move = lambda v: v[order] if v.ndim else v
    variables = {'params': moved}, jax.tree.map(move, state)
    for train in (False, True):
        if name == 'noisy_top_k' and train:
            continue  # its noise is of the expert's number
        layer = build(name, factor=FACTOR)
        args = (layer, name, problem, problem.mask, train)
        y, aux = call(*args)
        other, aux_other = call(*args, variables=variables)
        assert_close(other, y, 2e-6)
        assert_close(dict(aux_other.losses), dict(aux.losses), 5e-6)
        stats = {n: move(v) for n, v in aux.stats.items()}
        assert_close(dict(aux_other.stats), stats, 5e-6)


@pytest.mark.parametrize('name', ASSIGNING)
def test_evaluation_is_deterministic(name):
    # Whatever the key, and without one.
    layer, problem = build(name), problem_of()
    runs = [
        call(layer, name, problem, problem.mask, False, key)
        for key in (None, KEY, jax.random.key(6))
    ]
    for other in runs[1:]:
        jax.tree.map(np.testing.assert_array_equal, other, runs[0])

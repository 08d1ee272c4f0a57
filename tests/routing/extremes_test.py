"""Logits between -1e4 and 1e4: every router chooses as exact scores would.

Probabilities of such logits are 0 or 1 in float32, and most in float64; what
is chosen must not depend on it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.routing import ROUTERS, token_normal
from tests.reference import selection
from tests.reference.routing import largest
from tests.routing.common import ASSIGNING, KEY, context

G, S, E, K = 2, 16, 8, 3
# Where float32 scores underflow, saturate, or do neither.
LEVELS = np.float64([-1e4, -500, -100, -50, -18, 0, 18, 50, 100, 500, 1e4])
STEPS = np.float64([2**-3, 0.5, 1, 7, 150, 1e3])
BIAS = np.float32([0, 0.1, 0.3, 0, 0.1, 0.3, 0, 0.1])
OPTIONS = {
    'expert_choice': {'capacity_factor': 2.0},
    'group_limited': {'k': K, 'expert_groups': 4, 'chosen_groups': 2},
    'hash': {'k': K, 'vocab_size': 16},
    'relu': {'k': K},
    'switch': {},
    'top2': {'policy': 'all'},
    'top_p': {'k': K, 'p': 1.0},
}
NOT_BY_LOGITS = ('hash', 'random', 'round_robin')


def draw(dtype):
    """Logits about one level a token, in steps; and all over the range."""
    rng = np.random.default_rng(0)
    order = rng.permuted(np.tile(np.arange(E), (G, S, 1)), axis=-1)
    level = rng.choice(LEVELS, (G, S, 1)), rng.choice(LEVELS, (G, S, E))
    steps = rng.choice(STEPS, (G, S, 1)) * (order - E / 2)
    kinds = level[0] + steps, level[1] + 0.5 * order, level[1]
    kind = rng.integers(0, 3, (G, S, 1))
    logits = np.choose(np.broadcast_to(kind, (G, S, E)), kinds)
    return jnp.asarray(np.clip(logits, -1e4, 1e4), dtype)


def route(name, logits, *, train=False, bias=BIAS, **options):
    fields = {'noise_logits': jnp.zeros(logits.shape), 'key': KEY}
    fields['token_id'] = jnp.zeros(logits.shape[:2], jnp.int32)
    ctx = context(shape=(G, S), bias=jnp.asarray(bias), **fields)
    options = {'k': K} | OPTIONS.get(name, options) | options
    if name in ('switch', 'top2', 'expert_choice'):
        options.pop('k')
    router = functools.partial(ROUTERS[name], **options)
    run = jax.jit(lambda logits, ctx: router(logits, ctx._replace(train=train)))
    return jax.device_get(run(logits, ctx._replace(train=None)))


def experts(routing, g, s):
    """The choices of one token that exist, in order."""
    return routing.expert[g, routing.valid[g, :, s], s].tolist()


def check(routing, logits, oracle):
    for g, s in np.ndindex(G, S):
        row = np.float64(logits[g, s])
        assert experts(routing, g, s) == oracle(row), row.tolist()


def check_margin(chosen, score, tolerance):
    """No other has a greater score, but for rounding of the logits' size."""
    others = np.delete(score, chosen)
    assert np.min(score[chosen]) >= np.max(others) - tolerance


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16], ids=str)
class TestEveryRouter:
    """Every router, with logits of either dtype."""

    @pytest.mark.parametrize('name', ['top_k', 'switch', 'top2', 'sinkhorn'])
    def test_by_logits(self, name, dtype):
        logits = draw(dtype)
        k = {'switch': 1, 'top2': 2}.get(name, K)
        check(route(name, logits), logits, lambda row: largest(row, k))

    @pytest.mark.parametrize('bias', [BIAS, np.zeros(E)], ids=['bias', 'none'])
    def test_sigmoid(self, dtype, bias):
        logits = draw(dtype)
        oracle = lambda row: selection.sigmoid_top_k(row, bias, K)
        check(route('sigmoid', logits, bias=bias), logits, oracle)

    @pytest.mark.parametrize('scored', [1, 2])
    def test_group_limited(self, dtype, scored):
        logits = draw(dtype)
        for bias in (BIAS, np.zeros(E)):
            found = route(
                'group_limited', logits, bias=bias, scored_experts=scored
            )

            def oracle(row, bias=bias):
                allowed = selection.allowed_experts(row, bias, 4, 2, scored)
                return selection.sigmoid_top_k(row, bias, K, allowed)

            check(found, logits, oracle)

    def test_relu(self, dtype):
        logits = draw(dtype)
        oracle = lambda row: [e for e in largest(row, K) if row[e] > 0]
        check(route('relu', logits), logits, oracle)

    @pytest.mark.parametrize('p', [0.4, 0.9, 1.0])
    def test_top_p(self, dtype, p):
        logits = draw(dtype)

        def oracle(row):
            return largest(row, selection.top_p_count(row, p, K))

        check(route('top_p', logits, p=p), logits, oracle)

    def test_noisy_top_k(self, dtype):
        logits = draw(dtype)
        check(route('noisy_top_k', logits), logits, lambda r: largest(r, K))
        found = route('noisy_top_k', logits, train=True)
        position = np.arange(G * S, dtype=np.int32).reshape(G, S)
        noise = np.float64(token_normal(KEY, position, E))
        for g, s in np.ndindex(G, S):
            row = np.float64(logits[g, s])
            score = row + noise[g, s] * (np.log(2) + 1e-2)
            tolerance = 1e-6 * np.max(np.abs(row))
            check_margin(experts(found, g, s), score, tolerance)

    def test_sinkhorn_in_training(self, dtype):
        logits = draw(dtype)
        found = route('sinkhorn', logits, train=True)
        plan = selection.log_plan(logits.reshape(-1, E), 8).reshape(G, S, E)
        for g, s in np.ndindex(G, S):
            check_margin(experts(found, g, s), plan[g, s], 1e-6 * 8 * 1e4)

    def test_expert_choice(self, dtype):
        logits = draw(dtype)
        found = route('expert_choice', logits)
        assert found.valid.all()
        for g in range(G):
            rows = [selection.log_odds(row) for row in logits[g]]
            for e, score in enumerate(np.array(rows).T):
                tolerance = 1e-6 * np.max(np.abs(score))
                check_margin(found.token[g, e].tolist(), score, tolerance)

    @pytest.mark.parametrize('name', NOT_BY_LOGITS)
    def test_others_do_not_look(self, name, dtype):
        logits = draw(dtype)
        found, other = route(name, logits), route(name, logits * 0)
        np.testing.assert_array_equal(found.expert, other.expert)


def test_every_router_is_here():
    tested = {
        'expert_choice',
        'group_limited',
        'noisy_top_k',
        'relu',
        'sigmoid',
        'sinkhorn',
        'switch',
        'top2',
        'top_k',
        'top_p',
    }
    assert tested | set(NOT_BY_LOGITS) == set(ASSIGNING)

"""Executors against a loop over assignments, in values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.dispatch import DISPATCHERS
from moe.ops import grouped_matmul
from tests import grids
from tests.reference import routing as reference
from tests.reference.compare import assert_close

G, S, E, D, F = 2, 4, 3, 4, 5


def linear(w):
    """Experts that are matrices w [E, D, F], in both layouts."""

    def experts(rows, sizes=None):
        if sizes is None:
            return jnp.einsum('end,edf->enf', rows, w)
        return grouped_matmul(rows, w, sizes)

    return experts


def make(expert, live, token=None, priority=None, mask=None):
    """A Routing [G, N, M] of plain lists, with random weights."""
    expert = np.array(expert, np.int32)
    weight = np.random.default_rng(7).uniform(0.2, 1, expert.shape)
    probs = np.full((G, S, E), 1 / E, np.float32)
    return grids.make(
        expert=expert,
        weight=weight.astype(np.float32),
        valid=np.array(live, bool),
        probs=probs,
        logits=np.zeros_like(probs),
        mask=np.ones((G, S), bool) if mask is None else np.array(mask, bool),
        token=None if token is None else np.array(token, np.int32),
        priority=None if priority is None else np.array(priority, np.float32),
    )


# Two slots an expert. Group 0 is an ordinary expert choice, in which token 1
# has three experts and token 3 none. In group 1 expert 0 has one token,
# expert 1 the same token twice, expert 2 none at all.
EXPERT_CHOICE = make(
    expert=[[[0, 0], [1, 1], [2, 2]]] * 2,
    live=[[[1, 1], [1, 1], [1, 1]], [[0, 1], [1, 1], [0, 0]]],
    token=[[[1, 0], [2, 1], [2, 1]], [[0, 3], [3, 3], [0, 2]]],
    mask=[[1, 1, 1, 0], [1, 1, 1, 1]],
)
# K = 2, every first choice of group 0 is expert 1, nobody's is expert 2 in
# group 1, whose last token is padding; later tokens go first.
PRIORITY = make(
    expert=[
        [[1, 1, 1, 1], [0, 2, 0, 2]],
        [[0, 1, 0, 1], [1, 0, 1, 0]],
    ],
    live=[np.ones((2, 4)), [[1, 1, 1, 0]] * 2],
    priority=[[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.6, 0.9]],
    mask=[[1, 1, 1, 1], [1, 1, 1, 0]],
)
# The same without priority, in token order.
TOKEN_ORDER = PRIORITY.replace(priority=None)
ROUTINGS = {'expert choice': EXPERT_CHOICE, 'priority': PRIORITY}


def draw(dtype=np.float32):
    rng = np.random.default_rng(3)
    shapes = [(G, S, D), (E, D, F), (G, S, F)]
    return [rng.standard_normal(s).astype(dtype) for s in shapes]


def expected(x, w, dy, routing, slots):
    """(y, kept) and the gradients of `sum(y * dy)`, in float64."""
    x, w, dy = np.float64(x), np.float64(w), np.float64(dy)
    y, dx, dw = np.zeros((G, S, F)), np.zeros(x.shape), np.zeros(w.shape)
    d_weight = np.zeros(routing.weight.shape)
    kept = np.zeros(routing.valid.shape, bool)
    for g in range(G):
        priority = None if routing.priority is None else routing.priority[g]
        kept[g] = reference.keep(
            grids.expert_of(routing)[g], routing.valid[g], slots, priority
        )
        for n, m in np.argwhere(kept[g]):
            e = grids.expert_of(routing)[g, n, m]
            gate = routing.weight[g, n, m]
            s = grids.token_of(routing)[g, n, m]
            y[g, s] += gate * (x[g, s] @ w[e])
            d_weight[g, n, m] = np.sum((x[g, s] @ w[e]) * dy[g, s])
            dx[g, s] += gate * (w[e] @ dy[g, s])
            dw[e] += gate * np.outer(x[g, s], dy[g, s])
    return y, kept, (dx, dw, d_weight)


@functools.lru_cache
def compiled(dispatcher, slots):
    def objective(x, w, weight, dy, routing):
        routing = routing.replace(weight=weight)
        y, kept = DISPATCHERS[dispatcher](x, routing, linear(w), slots)
        return jnp.sum(y * dy), (y, kept)

    return jax.jit(jax.grad(objective, argnums=(0, 1, 2), has_aux=True))


@pytest.mark.parametrize('slots', [1, None])
@pytest.mark.parametrize('name', ROUTINGS)
@pytest.mark.parametrize('dispatcher', DISPATCHERS)
def test_equals_the_loop(dispatcher, name, slots):
    routing = ROUTINGS[name]
    x, w, dy = draw()
    run = compiled(dispatcher, slots)
    gradients, (y, kept) = run(x, w, routing.weight, dy, routing)
    y_desired, kept_desired, desired = expected(x, w, dy, routing, slots)
    np.testing.assert_array_equal(kept, kept_desired)
    assert_close(y, y_desired, 2e-6)
    assert_close(gradients, desired, 2e-6)
    assert np.all(kept_desired == routing.valid) == (slots is None)


@pytest.mark.parametrize('dispatcher', DISPATCHERS)
def test_tokens_without_assignment_get_zero(dispatcher):
    # Token 3 of group 0, tokens 0 to 2 of group 1.
    x, w, dy = draw()
    args = (x, w, EXPERT_CHOICE.weight, dy, EXPERT_CHOICE)
    gradients, (y, _) = compiled(dispatcher, None)(*args)
    empty = np.array([[0, 0, 0, 1], [1, 1, 1, 0]], bool)
    for value in (y, gradients[0]):
        assert not np.any(np.asarray(value)[empty])
        assert np.all(np.any(np.asarray(value)[~empty], axis=-1))


@pytest.mark.parametrize('dispatcher', DISPATCHERS)
def test_vmap(dispatcher):
    # Two batches with different routings at once, and the same experts.
    xs, w, _ = draw()
    xs = np.stack([xs, -2 * xs])
    both = jax.tree.map(
        lambda *leaves: np.stack(leaves),
        TOKEN_ORDER,
        TOKEN_ORDER.replace(expert=(TOKEN_ORDER.expert + 1) % E),
    )

    def run(x, routing):
        return DISPATCHERS[dispatcher](x, routing, linear(w), 1)[0]

    y = jax.jit(jax.vmap(run))(xs, both)
    for i in range(2):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], both)
        desired = expected(xs[i], w, np.zeros((G, S, F)), one, 1)[0]
        assert_close(y[i], desired, 2e-6)


@pytest.mark.parametrize('dispatcher', DISPATCHERS)
def test_experts_see_each_live_token_once_for_each_choice(dispatcher):
    # Token t is the number t + 1; empty rows are zero.
    x = np.arange(1, G * S + 1, dtype=np.float32).reshape(G, S, 1)

    @jax.jit
    def what_the_experts_get(x):
        seen = []

        def experts(rows, sizes=None):
            seen.extend([rows] if sizes is None else [rows, sizes])
            return rows

        DISPATCHERS[dispatcher](x, TOKEN_ORDER, experts, None)
        return seen

    rows, *sizes = what_the_experts_get(x)
    if sizes:
        rows = np.split(np.asarray(rows), np.cumsum(sizes[0]))[:E]
    got = [sorted(v for v in np.ravel(r).tolist() if v) for r in rows]
    # Group 0 holds tokens 1 to 4, group 1 tokens 5 to 8 of which 8 is padding.
    assert got == [[1, 3, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7], [2, 4]]


@pytest.mark.parametrize('dispatcher', DISPATCHERS)
def test_output_has_the_dtype_of_the_experts(dispatcher):
    x, w, _ = draw()
    x, w = jnp.asarray(x, jnp.bfloat16), jnp.asarray(w, jnp.bfloat16)
    run = functools.partial(
        DISPATCHERS[dispatcher], experts=linear(w), capacity=1
    )
    y, kept = jax.eval_shape(lambda x, r: run(x, r), x, TOKEN_ORDER)
    assert (y.shape, y.dtype) == ((G, S, F), jnp.bfloat16)
    assert (kept.shape, kept.dtype) == ((G, 2, S), jnp.bool_)

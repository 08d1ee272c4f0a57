"""Switch routing: known gates and gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from moe.routing import switch, top_k
from tests.reference.routing import softmax
from tests.routing.common import (
    PADDED,
    E,
    G,
    S,
    accounted,
    context,
    draw,
    gradient,
    run,
)


def test_known_gates_and_balance():
    # First choices 0, 2, 2, 0: f = [.5, 0, .5], p = [.425, .275, .3]:
    # 3 * (.5*.425 + .5*.3) = 1.0875. The gate is the probability itself.
    gates = [[0.5, 0.4, 0.1], [0.3, 0.3, 0.4], [0.1, 0.2, 0.7], [0.8, 0.2, 0.0]]
    logits = jnp.log(jnp.maximum(jnp.array([gates]), 1e-30))
    routing = run(switch, logits, context(shape=(1, 4)))
    np.testing.assert_array_equal(routing.expert, [[[0, 2, 2, 0]]])
    np.testing.assert_allclose(
        routing.weight, [[[0.5, 0.4, 0.7, 0.8]]], rtol=1e-6
    )
    balance = accounted(routing).losses['load_balance']
    np.testing.assert_allclose(balance, 1.0875, rtol=1e-6)


def test_is_top_k_of_one():
    one, two = (
        run(switch, draw(0), context(PADDED)),
        run(top_k, draw(0), context(PADDED), k=1),
    )
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_ties_go_to_the_lowest_index():
    routing = run(switch, np.zeros((G, S, E), np.float32), context())
    assert not np.any(routing.expert)
    np.testing.assert_allclose(routing.weight, 1 / E, rtol=1e-6)


def test_trains_the_router():
    # d p_e / d logit_j = p_e (1[e = j] - p_j), each times e + 1.
    logits = draw(1)
    got = gradient(switch, logits, context(PADDED))
    for g, s in np.ndindex(G, S):
        probs = softmax(logits[g, s])
        e = np.argmax(probs)
        desired = (e + 1) * probs[e] * ((np.arange(E) == e) - probs)
        desired = desired * PADDED[g, s]
        np.testing.assert_allclose(got[g, s], desired, atol=2e-6)

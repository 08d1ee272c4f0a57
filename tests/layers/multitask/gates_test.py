"""Gates over all experts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from moe.layers.multitask import softmax
from moe.routing import top_k
from moe.types import Context, Dense
from tests import tiny
from tests.reference.compare import assert_close

G, S, E = 2, 3, 4
LOGITS, DY = tiny.numbers((G, S, E), 0), tiny.numbers((G, S, E), 1)
MASK = np.array([[1, 1, 0], [0, 1, 1]], bool)
CONTEXT = Context(MASK, jnp.arange(G * S, dtype=jnp.int32).reshape(G, S))


def test_is_top_k_of_all_without_the_order():
    def gates(router, logits):
        routing = router(logits, CONTEXT)
        return routing.gates()

    def run(router):
        objective = lambda logits: jnp.sum(gates(router, logits) * DY)
        return gates(router, LOGITS), jax.grad(objective)(LOGITS)

    everyone = functools.partial(top_k, k=E, renormalize=False)
    got, desired = run(softmax), jax.device_get(run(everyone))
    assert_close(got, desired, 1e-6)
    np.testing.assert_allclose(np.sum(got[0], axis=-1), MASK, rtol=1e-6)


def test_routing_is_whole():
    routing = softmax(LOGITS, CONTEXT)
    # Assignment [g, e, s] is for expert e.
    np.testing.assert_array_equal(
        routing.assignment_expert()[0, :, 0], np.arange(routing.num_experts)
    )
    assert routing.weight.shape == (G, E, S)
    powers = np.exp(np.float64(LOGITS[1, 2]))
    np.testing.assert_allclose(
        routing.weight[1, :, 2], powers / np.sum(powers), rtol=1e-6
    )
    np.testing.assert_array_equal(routing.valid[:, 3], MASK)
    np.testing.assert_array_equal(routing.logits, LOGITS)
    assert isinstance(routing, Dense)

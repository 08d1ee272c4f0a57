"""The language model with the experts of its mixtures replayed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.config import ConfigError
from moe.routing import recorded_routes
from moe.workloads.lm.model import LM
from tests import tiny

pytestmark = pytest.mark.slow

TOKENS = np.random.default_rng(0).integers(0, 256, (2, 6), np.int32)


@pytest.mark.parametrize('packed', [False, True])
def test_a_model_replays_its_routing_to_the_last_bit(packed):
    # A dense layer, then two mixtures, in two scans; documents in a row.
    config = tiny.model({'num_layers': 3, 'dense_layers': (0,)})
    model, tokens = LM(config), TOKENS
    segments = jnp.asarray(np.arange(tokens.shape[1]) // 3)[None]
    segments = jnp.broadcast_to(segments, tokens.shape) if packed else None
    params = tiny.parameters(model.init, tokens, scale=0.5)

    @jax.jit
    def run(params, routes):
        def objective(params):
            logits, _, aux = model.apply(
                {'params': params},
                tokens,
                segments=segments,
                record=True,
                routes=routes,
            )
            return jnp.sum(jnp.sin(logits)), (logits, aux.routing)

        return jax.grad(objective, has_aux=True)(params)

    gradient, (logits, routing) = run(params, None)
    routes = recorded_routes(routing, tokens.shape)
    assert routes.shape == (*tokens.shape, 2, 2)
    again, (other, _) = run(params, routes)
    np.testing.assert_array_equal(other, logits)
    jax.tree.map(np.testing.assert_array_equal, again, gradient)
    # Each layer has its own: turned around they are others.
    _, (turned, routing) = run(params, routes[:, :, ::-1])
    assert np.max(np.abs(turned - logits)) > 1e-3
    found = recorded_routes(routing, tokens.shape)
    np.testing.assert_array_equal(found, routes[:, :, ::-1])
    with pytest.raises(ConfigError, match='of 2 mixture layers'):
        run(params, routes[:, :, :1])

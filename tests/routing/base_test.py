"""The registry of routers: one from outside is like those that are there."""

import functools

import jax
import numpy as np
import pytest

from moe.experts import MLP
from moe.layers import MoE
from moe.routing import ROUTERS, top_k


def test_a_router_from_outside(monkeypatch):
    monkeypatch.setattr(ROUTERS, '_entries', dict(ROUTERS._entries))

    @ROUTERS.register('opposite')
    def opposite(logits, context, *, k: int = 1):
        return top_k(-logits, context, k=k)

    layer = MoE(MLP(hidden=2, num_experts=3), ROUTERS['opposite'])
    x = np.random.default_rng(0).standard_normal((1, 4, 3), np.float32)
    init = functools.partial(layer.init_with_output, record=True)
    (y, aux), variables = jax.jit(init)(jax.random.key(0), x)
    assert y.shape == x.shape
    logits = x @ variables['params']['router']
    np.testing.assert_array_equal(
        aux.routing.expert[:, 0], np.argmin(logits, axis=-1)
    )
    with pytest.raises(ValueError, match="router 'opposite' is registered"):
        ROUTERS.register('opposite')(top_k)

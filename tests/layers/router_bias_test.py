"""The bias of the router's logits against the loop oracle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.experts import MLP
from moe.layers import MoE
from moe.routing import top_k
from tests.reference import layer as reference
from tests.reference import scenarios
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow


def test_router_bias_shifts_the_logits():
    # The first feature of a token is 1: a bias is the router's first row, in
    # values and gradients. It begins at zero.
    problem = scenarios.problem('empty')
    bias = np.linspace(-0.8, 0.8, 5, dtype=np.float32)
    layer = MoE(
        MLP(scenarios.HIDDEN, num_experts=5),
        router=functools.partial(top_k, k=2),
        router_bias=True,
        dispatcher='indexed',
    )
    coefficients = {'load_balance': 0.7, 'router_z': 0.3}

    def objective(params):
        y, aux = layer.apply({'params': params}, problem.x, mask=problem.mask)
        weighted = [c * aux.losses[name] for name, c in coefficients.items()]
        return jnp.sum(y * problem.dy) + sum(weighted), (y, aux)

    params = {'router': problem.router, 'experts': problem.experts}
    params['router_bias'] = bias
    gradients, (y, aux) = jax.jit(jax.grad(objective, has_aux=True))(params)
    wide = scenarios.float64(problem)
    router = wide.router.copy()
    router[0] += bias
    options = {
        'k': 2,
        'renormalize': True,
        'slots': None,
        'activation': 'swiglu',
        'scope': 'global',
    }
    inputs = (wide.x, router, wide.experts, wide.mask, options)
    desired = reference.layer(*inputs)
    logits = np.sort(desired.logits[problem.mask])
    assert np.min(np.diff(logits)) > 1e-3  # no close call
    assert_close(y, desired.y, 5e-6)
    assert_close(dict(aux.losses), desired.losses, 2e-6)
    assert_close(aux.stats['logit_rms'], desired.stats['logit_rms'], 2e-6)
    slopes = reference.gradients(*inputs, wide.dy, coefficients)
    assert_close(gradients['router_bias'], slopes['router'][0], 5e-6)
    assert_close(gradients['router'], slopes['router'], 5e-6)
    first = jax.eval_shape(layer.init, jax.random.key(0), problem.x)['params']
    assert first['router_bias'].shape == (5,)
    assert (
        'router_bias'
        not in jax.eval_shape(
            layer.clone(router_bias=False).init, jax.random.key(0), problem.x
        )['params']
    )

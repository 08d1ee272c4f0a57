"""The language model with what published ones have, against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.workloads.lm.model import LM
from tests import tiny
from tests.reference import model as reference
from tests.reference import slopes
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow

TOKENS = np.random.default_rng(0).integers(0, 256, (2, 5), np.int32)
CLAMPED = {'name': 'clamped_swiglu', 'limit': 0.75, 'alpha': 1.5}
# Of several families at once: GPT-OSS's biases and activation, Granite's
# factors, a norm with a mean, a first layer that is dense.
CHANGES = {
    'dense_layers': (0,),
    'norm': 'layer',
    'norm_epsilon': 0.05,
    'embedding_scale': 3.0,
    'residual_scale': 0.5,
    'logit_scale': 0.25,
    'dense.activation': CLAMPED,
    'dense.use_bias': True,
    'moe.router_bias': True,
    'moe.experts.activation': CLAMPED,
    'moe.experts.use_bias': True,
}


def test_equals_the_loops_in_values_and_gradients():
    config = tiny.model(CHANGES)
    model, options = LM(config), tiny.oracle_options(config)
    params = tiny.parameters(model.init, TOKENS)
    dy = tiny.numbers((2, 5, 256), seed=1)

    @jax.jit
    def run(params):
        logits = model.apply({'params': params}, TOKENS)[0]
        return jnp.sum(logits * dy), logits

    gradients, logits = jax.grad(run, has_aux=True)(params)
    wide = jax.tree.map(np.float64, params)
    assert_close(logits, reference.logits(TOKENS, wide, options), 1e-5)

    def objective(params):
        return np.sum(reference.logits(TOKENS, params, options) * dy)

    draw = np.random.default_rng(2)
    along = jax.tree.map(lambda v: draw.standard_normal(v.shape), wide)
    desired = slopes.along_each(objective, wide, along)
    actual = slopes.products(gradients, along)
    assert len(jax.tree.leaves(desired)) == 4 + 14 + 16
    assert_close(actual, desired, 2e-5, scale=1.0)

"""Any linen module as an expert, against a loop over experts."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.experts import Lifted
from moe.layers import MoE
from moe.routing import top_k
from tests.reference import routing as reference_routing
from tests.reference import scenarios
from tests.reference.compare import assert_close

E, F = 5, 3


@pytest.mark.parametrize('executor', ['onehot', 'indexed'])
def test_lifted_dense_in_a_layer_equals_the_loop(executor):
    # F != D: the output has the experts' width. Two slots, so that some drop.
    x, mask, router, _, dy = scenarios.problem('empty')
    dy = dy[..., :F]
    layer = MoE(
        Lifted(nn.Dense(F), num_experts=E),
        router=functools.partial(top_k, k=2),
        dispatcher=executor,
        capacity_factor=0.5,
    )
    variables = jax.jit(layer.init)(jax.random.key(0), x)
    dense = variables['params']['experts']['expert']
    assert dense['kernel'].shape == (E, scenarios.WIDTH, F)
    bias = np.random.default_rng(0).normal(size=(E, F))
    dense = {'kernel': dense['kernel'], 'bias': jnp.float32(bias)}
    params = {
        'router': jnp.asarray(router),
        'experts': {'expert': dense},
    }

    @jax.jit
    def run(x, params):
        def apply(x, params):
            call = functools.partial(layer.apply, mask=mask, train=True)
            return call({'params': params}, x)[0]

        y, pull = jax.vjp(apply, x, params)
        return y, pull(dy)[1]['experts']['expert']

    y, gradients = run(x, params)
    # ceil(6*2*.5/5) = 2 slots.
    kernel, bias = np.float64(dense['kernel']), np.float64(dense['bias'])
    y_desired, d_kernel = np.zeros(dy.shape), np.zeros(kernel.shape)
    d_bias = np.zeros(bias.shape)
    for g in range(scenarios.GROUPS):
        chosen = np.zeros((2, scenarios.SIZE), int)
        gates = np.zeros(chosen.shape)
        for s in range(scenarios.SIZE):
            chosen[:, s], gates[:, s] = reference_routing.softmax_then_select(
                np.float64(x[g, s]) @ np.float64(router), 2, renormalize=True
            )
        kept = reference_routing.keep(chosen, np.stack([mask[g]] * 2), 2)
        for c, s in np.argwhere(kept):
            e, gate = chosen[c, s], gates[c, s]
            y_desired[g, s] += gate * (x[g, s] @ kernel[e] + bias[e])
            d_kernel[e] += gate * np.outer(x[g, s], dy[g, s])
            d_bias[e] += gate * dy[g, s]
    assert_close(y, y_desired, 5e-6)
    desired = {'kernel': d_kernel, 'bias': d_bias}
    assert_close(dict(gradients), desired, 5e-6)


def test_experts_differ_pairwise_and_have_their_own_fan_in():
    # 8192 draws of standard deviation 1/sqrt(64) an expert, .8 % off.
    lifted = Lifted(nn.Dense(128), num_experts=4)
    variables = jax.jit(lifted.init)(jax.random.key(0), jnp.ones((4, 1, 64)))
    kernel = variables['params']['expert']['kernel']
    for e in range(4):
        np.testing.assert_allclose(np.std(kernel[e]), 1 / 8, rtol=0.04)
        for other in range(e):
            assert np.mean(kernel[e] == kernel[other]) < 0.01


def test_dropout_differs_between_experts():
    # The same row for all of 4 experts: half of 64 features fall, each
    # expert's own.
    lifted = Lifted(nn.Dropout(0.5, deterministic=False), num_experts=4)
    rngs = {'dropout': jax.random.key(0)}
    y = np.asarray(lifted.apply({}, jnp.ones((4, 1, 64)), rngs=rngs))
    for e in range(4):
        for other in range(e):
            assert np.any(y[e] != y[other])


def test_batch_statistics_are_of_each_expert():
    # Expert e gets the rows e and e + 2, of mean e + 1: with momentum 0 that
    # is its running mean.
    norm = nn.BatchNorm(use_running_average=False, momentum=0.0)
    lifted = Lifted(norm, num_experts=3)
    rows = jnp.arange(3.0)[:, None, None] + jnp.array([0.0, 2.0])[:, None]
    variables = lifted.init(jax.random.key(0), rows)
    _, updated = lifted.apply(variables, rows, mutable=['batch_stats'])
    (mean,) = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(updated)
        if 'mean' in jax.tree_util.keystr(path)
    ]
    np.testing.assert_allclose(mean, [[1], [2], [3]], rtol=1e-6)


def test_grouped_executor_is_refused():
    layer = MoE(Lifted(nn.Dense(F), num_experts=E), dispatcher='grouped')
    message = "dispatcher must be 'indexed' or 'onehot', not 'grouped'"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((2, 6, 4)))

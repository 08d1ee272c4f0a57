"""Dropout and stochastic depth in a stack, and of experts on a mesh."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.experts import MLP
from moe.layers import MoE
from moe.models.transformer import Stack
from moe.parallel import MeshConfig, batch_sharding, make_mesh
from tests import tiny
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow

X = np.random.default_rng(0).standard_normal((6, 4, 16), np.float32)
KEY = jax.random.key(1)


def stack(changes):
    return Stack(tiny.model({'moe_every': 2, **changes}), causal=False)


@functools.cache
def parameters(every):
    return tiny.parameters(stack({'moe_every': every}).init, X)


def output(changes, params, x, **options):
    apply = functools.partial(stack(changes).apply, **options)
    return jax.jit(lambda *args: apply(*args)[0])({'params': params}, x)


def test_what_is_computed_again_draws_the_same():
    # And experts in another layout, whose rows are in another order.
    on = {
        'dropout': 0.2,
        'stochastic_depth': 0.5,
        'dense.dropout': 0.3,
        'moe.experts.dropout': 0.4,
        'moe.capacity': 'dropless',
    }

    def gradient(changes, params):
        def loss(params):
            module = stack({**on, **changes})
            given = {'train': True, 'rngs': {'router': KEY}}
            return jnp.sum(module.apply({'params': params}, X, **given)[0] ** 2)

        return jax.device_get(jax.jit(jax.value_and_grad(loss))(params))

    params = parameters(2)
    found = gradient({}, params)
    again = gradient({'remat': 'full', 'moe.dispatcher': 'onehot'}, params)
    chex.assert_trees_all_close(again, found, rtol=1e-3, atol=1e-4)
    for leaf in jax.tree.leaves(found):
        assert np.all(np.isfinite(leaf))
    # All of it changes the outputs.
    still = np.sum(output({}, params, X) ** 2)
    assert abs(found[0] - still) > 0.01 * still
    evaluated = jax.make_jaxpr(stack(on).apply)({'params': params}, X)
    assert 'random' not in str(evaluated)


def test_stochastic_depth_takes_whole_branches():
    # Block 0 adds nothing, block 1 its feed-forward alone, which with rate .8
    # is lost or five times as large.
    params = jax.tree.map(np.copy, parameters(0))
    block = params['layers']['block_0']
    block['attention']['out'][:] = 0
    block['mlp']['down'][0] = 0
    changes = {'stochastic_depth': 0.8, 'moe_every': 0}
    x = np.random.default_rng(1).standard_normal((500, 2, 16), np.float32)
    still = output({'moe_every': 0}, params, x) - x
    given = {'train': True, 'rngs': {'router': KEY}}
    found = output(changes, params, x, **given) - x
    lost = np.all(found == 0, axis=(1, 2))
    assert_close(found[~lost], 5 * np.asarray(still[~lost]), 1e-4)
    # A standard error of .018.
    assert abs(np.mean(lost) - 0.8) < 5 * 0.018
    rates = tiny.model({'num_layers': 5, **changes}).depth_rate
    assert [rates(i) for i in range(6)] == pytest.approx(
        [0, 0.2, 0.4, 0.6, 0.8, 0.8]
    )


@pytest.mark.parametrize(
    ('axes', 'dispatcher', 'communication'),
    [
        ({'data': 2, 'expert': 2}, 'grouped', 'ragged'),
        ({'data': 4}, 'grouped', 'none'),
    ],
)
def test_experts_drop_the_same_on_any_mesh(axes, dispatcher, communication):
    experts = MLP(4, 4, dropout=0.5)
    x = np.random.default_rng(0).standard_normal((8, 4, 8), np.float32)

    def outputs(axes, **options):
        layer = MoE(experts, **options)
        count = int(np.prod([*axes.values()]))
        mesh = make_mesh(MeshConfig(**axes), jax.devices()[:count])
        with jax.set_mesh(mesh):
            given = jax.device_put(x, batch_sharding(mesh))
            apply = lambda v, x: layer.apply(
                v, x, train=True, rngs={'router': KEY}
            )
            return np.asarray(jax.jit(apply)(variables, given)[0])

    params = tiny.parameters(MoE(experts).init, x)
    variables = {'params': params}
    options = {'dispatcher': dispatcher, 'communication': communication}
    found = outputs(axes, **options)
    alone = outputs({'data': 1}, dispatcher='onehot')
    assert_close(found, alone, 1e-5)
    # A token of each expert's outputs loses half of its numbers.
    assert 0.3 < np.mean(found == 0) < 0.7

"""Noise belongs to a token's global position."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from moe.layers import MoE
from moe.routing import ROUTERS, token_uniform

pytestmark = pytest.mark.slow

KEY = jax.random.key(3)


@functools.partial(jax.jit, static_argnums=2)
def draw(key, position, width=4):
    return token_uniform(key, position, width, 0.5, 1.5)


def positions(*shape):
    return jnp.arange(np.prod(shape), dtype=jnp.int32).reshape(shape)


def test_follows_the_position_in_any_grid():
    # 12 tokens as 2 groups, as 3, as one, and dealt out like cards.
    noise = np.asarray(draw(KEY, positions(2, 6))).reshape(12, 4)
    for shape in [(3, 4), (1, 12)]:
        other = np.asarray(draw(KEY, positions(*shape)))
        np.testing.assert_array_equal(other.reshape(12, 4), noise)
    dealt = positions(6, 2).T
    np.testing.assert_array_equal(draw(KEY, dealt), noise[dealt])
    # A part of the batch, as on one of two devices.
    part = positions(2, 6)[1:]
    np.testing.assert_array_equal(draw(KEY, part)[0], noise[6:])


def test_positions_features_and_keys_differ():
    noise = np.asarray(draw(KEY, positions(2, 6)))
    assert len(np.unique(noise)) == noise.size
    other = draw(jax.random.key(4), positions(2, 6))
    assert not np.intersect1d(noise, other).size


def test_is_uniform_between_the_bounds():
    # 8192 draws of U(.5, 1.5): mean 1, standard deviation 1/sqrt(12) = .2887,
    # that of the mean .0032; least and greatest within a thousandth or so.
    noise = np.asarray(draw(KEY, positions(8, 64), 16))
    assert noise.shape == (8, 64, 16)
    assert noise.dtype == np.float32
    assert 0.5 <= noise.min() < 0.502
    assert 1.498 < noise.max() < 1.5
    np.testing.assert_allclose(noise.mean(), 1, atol=4 * 0.0032)
    np.testing.assert_allclose(noise.std(), 12**-0.5, rtol=0.02)


def test_bounds_are_zero_and_one_by_default():
    noise = token_uniform(KEY, positions(2, 6), 4)
    np.testing.assert_allclose(
        noise, draw(KEY, positions(2, 6)) - 0.5, atol=1e-6
    )


class Same(nn.Module):
    """Experts that return what they get."""

    num_experts: int = 4

    def __call__(self, rows, sizes=None):
        return rows


def test_the_mesh_does_not_change_the_noise():
    # A batch of 8 sequences on 1, 2, 4 and 8 devices: the same choices. All
    # routers with noise in one program a mesh.
    x = np.random.default_rng(0).standard_normal((8, 4, 6)).astype(np.float32)
    names = ('noisy_top_k', 'top2', 'random')
    layers = {name: MoE(Same(), router=ROUTERS[name]) for name in names}
    rngs = {'router': jax.random.key(3)}

    @jax.jit
    def init(x):
        return {n: la.init(jax.random.key(0), x) for n, la in layers.items()}

    @jax.jit
    def run(variables, x):
        found = {}
        for name, layer in layers.items():
            y, aux = layer.apply(
                variables[name], x, train=True, record=True, rngs=rngs
            )
            found[name] = y, aux.routing.expert, aux.routing.valid
        return found

    variables, found = init(x), []
    for count in (1, 2, 4, 8):
        mesh = jax.make_mesh(
            (count,),
            ('data',),
            devices=jax.devices()[:count],
            axis_types=(AxisType.Auto,),
        )
        whole = NamedSharding(mesh, PartitionSpec())
        split = NamedSharding(mesh, PartitionSpec('data'))
        given = jax.device_put((variables, x), (whole, split))
        found.append(jax.device_get(run(*given)))
    for other in found[1:]:
        for name in names:
            y, expert, live = other[name]
            np.testing.assert_array_equal(expert, found[0][name][1])
            np.testing.assert_array_equal(live, found[0][name][2])
            np.testing.assert_allclose(y, found[0][name][0], 1e-5, 1e-6)

"""bfloat16 with experts on other devices: no abort, and float32's values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.experts import MLP
from moe.layers import MoE
from moe.parallel import (
    COMMUNICATION,
    MeshConfig,
    batch_sharding,
    expert_axes_of,
    make_mesh,
    parameter_shardings,
)
from moe.parameters import declared
from moe.routing import top_k
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow

G, S, D, E = 8, 2, 4, 4
KEY = jax.random.key(0)
# Communication, levels, dispatcher, and devices along replica, data, fsdp,
# expert, tensor: all are shared with others, so that gradients are summed.
CASES = [
    ('none', 1, 'indexed', (1, 2, 2, 2, 1)),
    ('all_to_all', 1, 'onehot', (1, 1, 2, 2, 2)),
    ('ragged', 2, 'grouped', (2, 2, 1, 2, 1)),
    ('gather', 1, 'indexed', (1, 2, 1, 2, 2)),
]
# Those of a level, or of a dispatcher, beside another of the communication.
LONG_CASES = [
    ('all_to_all', 2, 'indexed', (2, 1, 1, 2, 2)),
    ('ragged', 1, 'grouped', (1, 2, 1, 2, 2)),
    ('gather', 1, 'grouped', (2, 1, 1, 4, 1)),
]


def draws():
    """Numbers that bfloat16 has too, so that tokens go to the same experts."""
    draw = np.random.default_rng(0)
    x, dy = draw.standard_normal((2, G, S, D)).astype(jnp.bfloat16)
    return x, np.float32(dy)


def build(name, levels, dispatcher, dtype):
    options = {'levels': levels} if levels > 1 else {}
    return MoE(
        MLP(4, num_experts=E, dtype=dtype),
        functools.partial(top_k, k=2),
        dispatcher=dispatcher,
        communication=functools.partial(COMMUNICATION[name], **options),
    )


@functools.cache
def parameters():
    init = build('none', 1, 'indexed', jnp.float32).init
    params = jax.jit(init)(KEY, draws()[0])
    return jax.tree.map(lambda v: np.asarray(v, jnp.bfloat16), params)


def gradients(layer, params, x):
    def objective(params, x):
        y, aux = layer.apply(params, x, train=True)
        total = jnp.sum(y.astype(jnp.float32) * draws()[1])
        return total + aux.losses['load_balance'], y

    return jax.grad(objective, argnums=(0, 1), has_aux=True)(params, x)


@functools.cache
def in_float32():
    """What one device computes in float32."""
    layer = build('none', 1, 'indexed', jnp.float32)
    params = jax.tree.map(np.float32, parameters())
    return jax.jit(functools.partial(gradients, layer))(
        params, np.float32(draws()[0])
    )


@pytest.mark.parametrize(
    ('name', 'levels', 'dispatcher', 'sizes'),
    CASES + [pytest.param(*c, marks=pytest.mark.long) for c in LONG_CASES],
)
def test_is_near_float32(name, levels, dispatcher, sizes):
    # Parameters in float32, as training has them, and in bfloat16.
    layer = build(name, levels, dispatcher, jnp.bfloat16)
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: np.prod(sizes)])
    axes = expert_axes_of(layer.communication)
    with jax.set_mesh(mesh):
        run = jax.jit(functools.partial(gradients, layer))
        x = jax.device_put(draws()[0], batch_sharding(mesh))
        for dtype in (jnp.float32, jnp.bfloat16):
            params = jax.tree.map(lambda v, d=dtype: v.astype(d), parameters())
            places = parameter_shardings(
                mesh, params, declared(layer.init, KEY, x), axes
            )
            found = jax.device_get(run(jax.device_put(params, places), x))
            desired = jax.device_get(in_float32())
            check = lambda a, b: assert_close(np.float32(a), b, 2e-2)
            jax.tree.map(check, found, desired)


def test_every_communication_is_here():
    assert {case[0] for case in CASES} == set(COMMUNICATION)

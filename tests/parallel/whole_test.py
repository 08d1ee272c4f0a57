"""Parameters of experts are gathered in the dtype of the computation."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest

from moe.experts import MLP
from moe.layers import MoE
from moe.parallel import (
    COMMUNICATION,
    MeshConfig,
    batch_sharding,
    make_mesh,
    parameter_shardings,
    with_shardings,
)
from moe.parameters import declared
from moe.routing import top_k

pytestmark = pytest.mark.slow

D, F, E = 8, 16, 4


def lowered(communication, dispatcher, fsdp, expert):
    """The program of the gradients, as the compiler is given it."""
    layer = MoE(
        MLP(F, num_experts=E, dtype=jnp.bfloat16, dropout=0.1),
        functools.partial(top_k, k=2),
        dispatcher=dispatcher,
        communication=COMMUNICATION[communication],
    )
    mesh = make_mesh(MeshConfig(fsdp=fsdp, expert=expert))
    x = jax.ShapeDtypeStruct(
        (8, 2, D), jnp.bfloat16, sharding=batch_sharding(mesh)
    )
    made = jax.eval_shape(layer.init, jax.random.key(0), x)
    parameters = declared(layer.init, jax.random.key(0), x)
    params = with_shardings(made, parameter_shardings(mesh, made, parameters))

    def objective(params, x):
        # With dropout tokens have more columns than the experts' D.
        rngs = {'router': jax.random.key(1)}
        y, _ = layer.apply(params, x, train=True, rngs=rngs)
        return jnp.sum(jnp.float32(y) ** 2)

    with jax.set_mesh(mesh):
        return jax.jit(jax.grad(objective)).lower(params, x).as_text()


def moved(text, kind, wholes):
    """Operand and result of each collective of a kind on weights, sorted."""
    pattern = (
        rf'"stablehlo.{kind}"\((?:.|\n)*?'
        r': \(tensor<(\w+)x(\w+)>\) -> tensor<(\w+)x(\w+)>'
    )
    found = re.findall(pattern, text)
    return sorted(one for one in found if {one[0], one[2]} & set(wholes))


@pytest.mark.parametrize(
    ('communication', 'dispatcher', 'fsdp', 'expert'),
    [
        ('ragged', 'grouped', 2, 4),
        ('none', 'grouped', 8, 1),
        ('all_to_all', 'indexed', 2, 4),
    ],
)
def test_weights_travel_in_the_dtype_of_the_computation(
    communication, dispatcher, fsdp, expert
):
    text = lowered(communication, dispatcher, fsdp, expert)
    own, d = E // expert, D // fsdp
    # Up and gate [E, D, F] twice, down [E, F, D]: split along D.
    up = f'{own}x{d}x{F}', f'{own}x{D}x{F}'
    down = f'{own}x{F}x{d}', f'{own}x{F}x{D}'
    wholes = [up[1], down[1]]
    each = sorted((up, up, down))
    assert moved(text, 'all_gather', wholes) == [
        (part, 'bf16', whole, 'bf16') for part, whole in each
    ]

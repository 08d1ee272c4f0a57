"""Compiles a mixture layer for TPUs that are not here.

    python -m tests.parallel.tpu_layer FOLDER CASE ...

writes the program of each case, forward and backward, to FOLDER/CASE.txt. It
runs in a process of its own, without the tests' settings of the compiler.
"""

import functools
import os
import pathlib
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp

from launch.planning.chips import parse_topology
from launch.planning.compiler import devices_of
from moe.experts import MLP
from moe.layers import MoE
from moe.parallel import (
    COMMUNICATION,
    MeshConfig,
    batch_sharding,
    compiler_options,
    make_mesh,
    parameter_shardings,
    with_shardings,
)
from moe.parallel.mesh import EXPERT_AXES
from moe.parameters import declared
from moe.routing import ROUTERS

# 8 groups of 512 tokens, 2 of 16 experts each (the routers' default), and so
# C = 512 * 2 / 16 = 64 slots.
G, S, D, F, E, K, C = 8, 512, 256, 512, 16, 2, 64


class Case(NamedTuple):
    """A layer and the machines it is compiled for."""

    topology: str
    replica: int
    expert: int
    communication: str
    buffer_factor: float | None = None
    router: str = 'top_k'
    overlap_degree: int = 1


CASES = {
    'all_to_all': Case('v5e:2x2', 1, 4, 'all_to_all'),
    'expert_choice': Case('v5e:2x2', 1, 4, 'all_to_all', None, 'expert_choice'),
    'overlap': Case('v5e:2x2', 1, 4, 'all_to_all', overlap_degree=2),
    'gather': Case('v5e:2x2', 1, 4, 'gather'),
    'ragged': Case('v5e:2x2', 1, 4, 'ragged'),
    'buffer': Case('v5p:2x2x2', 1, 8, 'ragged', 1.5),
    'levels': Case('v5p:2x2x2', 2, 4, 'all_to_all'),
    'ragged_levels': Case('v5p:2x2x2', 2, 4, 'ragged'),
}


def program(case):
    """The text of the gradients of tokens and parameters, all in bfloat16."""
    options = {'levels': 2} if case.replica > 1 else {}
    if case.buffer_factor:
        options = {'buffer_factor': case.buffer_factor}
    if case.overlap_degree > 1:
        options = {'overlap_degree': case.overlap_degree}
    layer = MoE(
        MLP(F, num_experts=E, activation='relu', dtype=jnp.bfloat16),
        ROUTERS[case.router],
        dispatcher='grouped' if case.communication == 'ragged' else 'indexed',
        communication=functools.partial(
            COMMUNICATION[case.communication], **options
        ),
        capacity_factor=None if case.communication == 'ragged' else 1.0,
    )
    mesh = make_mesh(
        MeshConfig(case.replica, 1, 1, case.expert, 1),
        devices_of(parse_topology(case.topology)),
    )
    x = jax.ShapeDtypeStruct(
        (G, S, D), jnp.bfloat16, sharding=batch_sharding(mesh)
    )
    made = jax.eval_shape(layer.init, jax.random.key(0), x)
    parameters = declared(layer.init, jax.random.key(0), x)
    axes = EXPERT_AXES[: case.replica]
    places = parameter_shardings(mesh, made, parameters, axes)
    params = with_shardings(made, places)

    def objective(params, x):
        y, aux = layer.apply(params, x, train=True)
        loss = jnp.sum(jnp.float32(y) ** 2) + aux.losses['load_balance']
        return loss, (y, aux.stats)

    gradients = jax.grad(objective, argnums=(0, 1), has_aux=True)
    with jax.set_mesh(mesh):
        step = jax.jit(gradients, compiler_options=compiler_options(mesh))
        return step.lower(params, x).compile().as_text()


if __name__ == '__main__':
    os.environ['JAX_PLATFORMS'] = 'cpu'
    for name in sys.argv[2:]:
        path = pathlib.Path(sys.argv[1]) / f'{name}.txt'
        path.write_text(program(CASES[name]))

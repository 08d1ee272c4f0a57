"""Compiles a dropless mixture layer for GPUs that are not here.

    python -m tests.ops.nvidia.layer FOLDER

writes the program of every case, forward and backward, to FOLDER/CASE.txt, and
the bytes of its temporaries to FOLDER/CASE.json. It runs in a process of its
own, without the tests' settings of the compiler.
"""

import functools
import json
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
    make_mesh,
    parameter_shardings,
    with_shardings,
)
from moe.parameters import declared
from moe.routing import top_k


class Case(NamedTuple):
    """A layer and the machines it is compiled for: T tokens in 8 groups."""

    topology: str
    tokens: int = 4096
    width: int = 2048
    hidden: int = 1024
    experts: int = 64
    k: int = 8
    communication: str = 'none'


CASES = {
    'h100': Case('h100:1x1'),
    'b200': Case('b200:1x1'),
    'ragged': Case('h100:1x4', 1024, 256, 512, 16, 2, 'ragged'),
    'data': Case('h100:1x4', 1024, 256, 512, 16, 2),
}


def program(case):
    """The program of the gradients of tokens and parameters, in bfloat16."""
    layer = MoE(
        MLP(case.hidden, num_experts=case.experts, dtype=jnp.bfloat16),
        functools.partial(top_k, k=case.k),
        dispatcher='grouped',
        communication=COMMUNICATION[case.communication],
        capacity_factor=None,
    )
    topology = parse_topology(case.topology)
    count = topology.num_devices
    alone = case.communication == 'none'
    axes = {'data': count} if alone else {'data': 1, 'expert': count}
    mesh = make_mesh(MeshConfig(**axes), devices_of(topology))
    shape = (8, case.tokens // 8, case.width)
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=batch_sharding(mesh))
    made = jax.eval_shape(layer.init, jax.random.key(0), x)
    parameters = declared(layer.init, jax.random.key(0), x)
    params = with_shardings(made, parameter_shardings(mesh, made, parameters))

    def objective(params, x):
        y, aux = layer.apply(params, x, train=True)
        return jnp.sum(jnp.float32(y) ** 2) + aux.losses['load_balance']

    with jax.set_mesh(mesh):
        gradients = jax.jit(jax.grad(objective, argnums=(0, 1)))
        return gradients.lower(params, x).compile(
            compiler_options=dict(topology.compiler_options)
        )


if __name__ == '__main__':
    os.environ['JAX_PLATFORMS'] = 'cpu'
    for name, case in CASES.items():
        compiled = program(case)
        path = pathlib.Path(sys.argv[1]) / name
        path.with_suffix('.txt').write_text(compiled.as_text())
        found = {'temporaries': compiled.memory_analysis().temp_size_in_bytes}
        path.with_suffix('.json').write_text(json.dumps(found))

"""Compiles mixture layers on one device for TPUs that are not here.

    python -m tests.ops.tpu.layer FOLDER

writes their programs, forward and backward, to FOLDER/DISPATCHER.txt. It runs
in a process of its own, without the tests' settings of the compiler.
"""

import functools
import os
import pathlib
import sys

import jax
import jax.numpy as jnp

from launch.planning.chips import parse_topology
from launch.planning.compiler import devices_of
from moe.experts import MLP
from moe.layers import MoE
from moe.routing import top_k

# 8,192 rows, 512 for each of 16 experts, with three matrices each.
T, D, F, E, K = 4096, 256, 512, 16, 2
DISPATCHERS = ('grouped', 'indexed')


def program(dispatcher):
    """The text of the output and the gradients, all in bfloat16."""
    mesh = jax.sharding.Mesh(
        devices_of(parse_topology('v5e:2x2'))[:1], ('one',)
    )
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    layer = MoE(
        MLP(F, num_experts=E, dtype=jnp.bfloat16),
        functools.partial(top_k, k=K),
        dispatcher=dispatcher,
        capacity_factor=1.0 if dispatcher == 'indexed' else None,
    )
    shape = lambda *sizes: jax.ShapeDtypeStruct(
        sizes, jnp.bfloat16, sharding=everywhere
    )
    x = shape(1, T, D)
    made = jax.eval_shape(layer.init, jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: shape(*leaf.shape), made)

    def run(params, x, dy):
        apply = lambda params, x: layer.apply(params, x, train=True)[0]
        y, back = jax.vjp(apply, params, x)
        return y, back(dy)

    with jax.set_mesh(mesh):
        return jax.jit(run).lower(params, x, x).compile().as_text()


if __name__ == '__main__':
    os.environ['JAX_PLATFORMS'] = 'cpu'
    for name in DISPATCHERS:
        (pathlib.Path(sys.argv[1]) / f'{name}.txt').write_text(program(name))

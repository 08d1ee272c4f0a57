"""Compiles mixture layers on one device for TPUs that are not here.

    python -m tests.ops.tpu.layer FOLDER [MODEL ...]

writes their programs, forward and backward, to FOLDER/DISPATCHER.txt; or those
of layers of models, dropless, to FOLDER/MODEL.txt. It runs in a process of its
own, without the tests' settings of the compiler.
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

# D, F, E and K of 4,096 tokens: 512 rows for each of 16 experts, with three
# matrices each.
T, SMALL = 4096, (256, 512, 16, 2)
DISPATCHERS = ('grouped', 'indexed')
MODELS = {
    'mixtral': (4096, 14336, 8, 2),
    'olmoe': (2048, 1024, 64, 8),
    'qwen3': (2048, 768, 128, 8),
    'deepseek': (7168, 2048, 256, 8),
}


def program(dispatcher, sizes, topology):
    """The text of the output and the gradients, all in bfloat16."""
    d, f, e, k = sizes
    mesh = jax.sharding.Mesh(devices_of(parse_topology(topology))[:1], ('one',))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    layer = MoE(
        MLP(f, num_experts=e, dtype=jnp.bfloat16),
        functools.partial(top_k, k=k),
        dispatcher=dispatcher,
        capacity_factor=1.0 if dispatcher == 'indexed' else None,
    )
    shape = lambda *sizes: jax.ShapeDtypeStruct(
        sizes, jnp.bfloat16, sharding=everywhere
    )
    x = shape(1, T, d)
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
    folder, *models = sys.argv[1:]
    programs = [(name, name, SMALL, 'v5e:2x2') for name in DISPATCHERS]
    if models:
        programs = [
            (name, 'grouped', MODELS[name], 'v5p:2x2x1') for name in models
        ]
    for name, *given in programs:
        (pathlib.Path(folder) / f'{name}.txt').write_text(program(*given))

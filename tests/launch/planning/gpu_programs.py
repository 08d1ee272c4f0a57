"""Compiles small programs for GPUs that are not here.

    python -m tests.launch.planning.gpu_programs FOLDER

writes the program of every case to FOLDER/CASE.txt. It runs in a process of its
own, without the tests' settings of the compiler.
"""

import os
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from launch.planning.chips import parse_topology
from launch.planning.compiler import devices_of

# Rows, two widths, steps of a loop; sequences, positions, heads, their width.
N, D, F, STEPS = 256, 512, 128, 3
B, S, H, WIDTH = 8, 256, 4, 64


def loop(x, w):
    """Three products of [N, D] by [D, D]."""
    step = lambda x, w: (jnp.tanh(x @ w), None)
    return jax.lax.scan(step, x, w)[0]


def gradients(x, w):
    """Of a product of [N, D] by [D, F]: three products."""
    loss = lambda x, w: jnp.sum(jnp.float32(x @ w) ** 2)
    return jax.grad(loss, (0, 1))(x, w)


def attention(query, key, value):
    """Attention of cuDNN, forward and backward."""
    out = lambda *inputs: jax.nn.dot_product_attention(
        *inputs, is_causal=True, implementation='cudnn'
    )
    loss = lambda *inputs: jnp.sum(jnp.float32(out(*inputs)))
    return jax.grad(loss, (0, 1, 2))(query, key, value)


def exchange(x):
    """An all-to-all within nodes, then a sum over all nodes."""
    turned = jax.lax.all_to_all(x, 'gpu', 0, 0, tiled=True)
    return jax.lax.psum(turned, 'node')


def main(folder: pathlib.Path) -> None:
    """Writes the programs, for two nodes of two GPUs."""
    topology = parse_topology('h100:2x2')
    mesh = Mesh(
        np.reshape(devices_of(topology), topology.shape),
        ('node', 'gpu'),
        axis_types=(AxisType.Auto,) * 2,
    )

    def given(*shape, axis=None):
        sharding = NamedSharding(mesh, P(axis))
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding)

    scores = [given(B, S, H, WIDTH)] * 3
    by_device = jax.shard_map(
        exchange, mesh=mesh, in_specs=P('gpu'), out_specs=P('gpu')
    )
    cases = {
        'loop': (loop, [given(N, D), given(STEPS, D, D)]),
        'gradients': (gradients, [given(N, D), given(D, F)]),
        'attention': (attention, scores),
        'exchange': (by_device, [given(4, N, D, axis='gpu')]),
        'sort': (jnp.sort, [given(2**16)]),
    }
    for name, (f, arguments) in cases.items():
        with jax.set_mesh(mesh), topology.lowering():
            lowered = jax.jit(f).lower(*arguments)
        program = lowered.compile(
            compiler_options=dict(topology.compiler_options)
        )
        (folder / f'{name}.txt').write_text(program.as_text())


if __name__ == '__main__':
    os.environ['JAX_PLATFORMS'] = 'cpu'
    main(pathlib.Path(sys.argv[1]))

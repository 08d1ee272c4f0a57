"""What the compiler says a device holds: its share, and not the others'."""

import math

import jax
import numpy as np
import pytest

from moe.parallel import (
    MeshConfig,
    batch_sharding,
    make_mesh,
    parameter_shardings,
    with_shardings,
)
from moe.training.step import init_state, jit_train_step
from tests import tiny

pytestmark = pytest.mark.slow

V, D, F, E = 256, 32, 512, 32
CHANGES = {
    'model.num_layers': 1,
    'model.d_model': D,
    'model.moe.num_experts': E,
    'model.moe.experts.hidden': F,
    'model.moe.capacity': {'name': 'factor', 'train': 1.0, 'eval': None},
}
EXPERTS = 3 * E * D * F  # of the one layer
FLOAT = 4


def memory(sizes, **changes):
    """The compiler's account of a train step on a mesh of these sizes."""
    config = tiny.parsed(CHANGES | changes)
    devices = jax.devices()[: math.prod(sizes)]
    mesh = make_mesh(MeshConfig(*sizes), devices)
    with jax.set_mesh(mesh):
        workload = config.make_workload()
        shapes = jax.eval_shape(lambda: init_state(config, workload=workload))
        where = parameter_shardings(
            mesh, shapes, workload.parameters, config.expert_axes
        )
        rows = (config.data.batch_size, config.data.seq_len + 1)
        batch = jax.ShapeDtypeStruct(
            rows, np.uint8, sharding=batch_sharding(mesh)
        )
        step = jit_train_step(mesh, config, workload, where)
        state = with_shardings(shapes, where)
        return step.lower(state, batch).compile().memory_analysis()


# Devices along replica, data, fsdp, expert, tensor; over how many of them
# experts, attention, and the tables of tokens are split.
@pytest.mark.parametrize(
    ('sizes', 'levels', 'splits'),
    [
        ((1, 1, 1, 8, 1), 1, (8, 1, 1)),
        ((2, 1, 2, 2, 1), 2, (8, 2, 2)),
        ((1, 1, 2, 2, 2), 1, (8, 4, 2)),
        # Of the axes one at a time: those above have all of them.
        *(
            pytest.param(sizes, levels, splits, marks=pytest.mark.long)
            for sizes, levels, splits in [
                ((2, 1, 1, 4, 1), 1, (4, 1, 1)),
                ((2, 1, 1, 4, 1), 2, (8, 1, 1)),
            ]
        ),
    ],
    ids=str,
)
def test_a_device_holds_its_share(sizes, levels, splits):
    found = memory(
        sizes,
        **{
            'model.moe.communication': {
                'name': 'all_to_all',
                'levels': levels,
            },
        },
    )
    parts = (EXPERTS, 4 * D * D, 2 * V * D)
    floats = sum(n // ways for n, ways in zip(parts, splits, strict=True))
    floats += D * E + 3 * D  # router and norms, on every device
    # Parameters and two moments; step and Adam's counters, a key; the norms and
    # counters of the guard; of 8 rows of 17 bytes those of this device.
    state = 3 * FLOAT * floats + 3 * 4 + 8 + 64 * FLOAT + 4 * 4
    batch = 17 * 8 // math.prod(sizes[:4])
    assert found.argument_size_in_bytes == state + batch
    # A new state is written over the old.
    assert found.alias_size_in_bytes == state
    # Gathered experts alone would take more. Old and new state are both there
    # until the update is known to be finite.
    assert found.temp_size_in_bytes < 0.9 * FLOAT * EXPERTS


def test_gathered_experts_would_be_seen():
    # Over fsdp they are gathered before use.
    found = memory((1, 1, 8, 1, 1))
    assert found.temp_size_in_bytes > FLOAT * EXPERTS


def test_activations_are_split():
    # Of 64 x 64 tokens every device has an eighth: all that it keeps for the
    # backward pass takes less than the logits of all.
    changes = {
        'model.moe.experts.hidden': 8,
        'data.batch_size': 64,
        'data.seq_len': 64,
        'model.moe.communication': 'all_to_all',
    }
    found = memory((1, 2, 1, 4, 1), **changes)
    assert found.temp_size_in_bytes < FLOAT * 64 * 64 * V

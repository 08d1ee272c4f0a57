"""What a ring holds; its steps are run by the tests of the kernels."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from moe.ops.nvidia import hopper, ring

# Of a block of threads on Hopper. Source: NVIDIA's Hopper tuning guide.
SHARED = 227 * 1024


def test_a_stage_waits_for_two_loads_and_two_warpgroups():
    found = ring.memory(4, (128, 64), (64, 256), jnp.bfloat16)
    assert found['left'].shape == (4, 128, 64)
    assert found['right'].shape == (4, 64, 256)
    for name in ('loaded', 'used'):
        assert found[name].num_arrivals == 2
        # A number in jax 0.12, a shape in 0.10.
        assert np.prod(found[name].num_barriers) == 4


@pytest.mark.parametrize('buffers', [1, 2])
@pytest.mark.parametrize('width', [64, 128, 200, 256, 768, 2048, 14_336])
def test_stages_and_what_is_stored_fit_the_shared_memory(width, buffers):
    tiling = hopper.Tiling.of(width, buffers)
    held = ring.memory(
        tiling.stages,
        (hopper.LEAST, ring.STEP),
        (ring.STEP, tiling.columns),
        jnp.bfloat16,
    )
    stages = sum(2 * math.prod(held[n].shape) for n in ('left', 'right'))
    # Each of two warpgroups stores from `buffers` squares of STEP.
    stored = 2 * buffers * 2 * ring.STEP**2
    assert stages + stored < SHARED
    # Loads overlap with products.
    assert tiling.stages >= 2

"""What a layer executes and moves when compiled for a TPU."""

import importlib.util
import math
import os
import pathlib
import subprocess
import sys

import pytest

from launch.planning import cost, hlo
from tests.ops.tpu.layer import DISPATCHERS, D, E, F, K, T

ROOT = pathlib.Path(__file__).parents[3]
# Of the tests, or of jax in the process that runs them.
UNWANTED = (
    'JAX_DISABLE_MOST_OPTIMIZATIONS',
    'JAX_NUM_CPU_DEVICES',
    'TPU_LIBRARY_PATH',
)
A = T * K
BYTES = 2  # of a bfloat16
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec('libtpu') is None,
        reason='needs the TPU compiler: pip install moe[plan]',
    ),
]


@pytest.fixture(scope='module')
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('programs')
    environment = {n: v for n, v in os.environ.items() if n not in UNWANTED}
    done = subprocess.run(
        [sys.executable, '-m', 'tests.ops.tpu.layer', str(folder)],
        cwd=ROOT,
        env={**environment, 'JAX_PLATFORMS': 'cpu'},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    texts = {n: (folder / f'{n}.txt').read_text() for n in DISPATCHERS}
    return {name: hlo.parse(text) for name, text in texts.items()}


@pytest.mark.parametrize('name', DISPATCHERS)
def test_products(programs, name):
    # Three matrices, forward and twice backward, and the router's.
    useful = 3 * 2 * (3 * A * D * F + T * D * E)
    executed = cost.count(programs[name]).flops
    assert useful <= executed <= 1.05 * useful


@pytest.mark.parametrize('name', DISPATCHERS)
def test_traffic(programs, name):
    # Matrices are read in both directions, their gradients written. Of the
    # arrays of the forward pass (tokens, rows, two hidden products and what
    # goes into the third, its outputs, their sums) and of their gradients each
    # is written once and read once; five are read again by the backward pass.
    weights = 3 * 3 * E * D * F
    tokens, rows, hidden = 4 * T * D, 10 * A * D, 15 * A * F
    least = BYTES * (weights + tokens + rows + hidden)
    assert cost.count(programs[name]).bytes <= 1.3 * least


@pytest.mark.parametrize('name', DISPATCHERS)
def test_no_tensor_of_all_experts(programs, name):
    # No one-hot [T, E, C], and no rows for each expert [E, A, D].
    forbidden = min(T * E * (A // E), E * A * D)
    for computation in programs[name].computations.values():
        for instruction in computation.instructions.values():
            for array in instruction.shape:
                assert math.prod(array.dims) < forbidden


def test_kernels(programs):
    text = {
        instruction.attributes
        for computation in programs['grouped'].computations.values()
        for instruction in computation.instructions.values()
        if instruction.opcode == 'custom-call'
    }
    # Forward two and one matrices, the gradients of both.
    named = lambda name: sum(f'/{name}/pallas_call' in one for one in text)
    assert named('grouped_products') == 4
    assert named('grouped_outer') == 2
    assert not any('ragged-dot' in one for one in text)

"""What a layer executes and moves when compiled for a TPU."""

import math

import pytest

from launch.planning import cost, hlo
from tests import compiled
from tests.ops.tpu.layer import DISPATCHERS, MODELS, SMALL, T

D, F, E, K = SMALL
A = T * K
BYTES = 2  # of a bfloat16
pytestmark = [pytest.mark.slow, compiled.needs_tpu]


@pytest.fixture(scope='module')
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('programs')
    texts = compiled.texts('tests.ops.tpu.layer', folder)
    return {name: hlo.parse(text) for name, text in texts.items()}


def useful(d, f, e, k):
    """FLOPs of three matrices and the router's, forward and twice backward."""
    return 3 * 2 * (3 * T * k * d * f + T * d * e)


def least(d, f, e, k):
    """The minimum of bytes.

    Matrices are read in both directions, their gradients written. Of the arrays
    of the forward pass (tokens, rows, two hidden products and what goes into
    the third, its outputs, their sums) and of their gradients each is written
    once and read once; five are read again by the backward pass.
    """
    weights = 3 * 3 * e * d * f
    tokens, rows, hidden = 4 * T * d, 10 * T * k * d, 15 * T * k * f
    return BYTES * (weights + tokens + rows + hidden)


@pytest.mark.parametrize('name', DISPATCHERS)
def test_products(programs, name):
    executed = cost.count(programs[name]).flops
    assert useful(*SMALL) <= executed <= 1.05 * useful(*SMALL)


@pytest.mark.parametrize('name', DISPATCHERS)
def test_traffic(programs, name):
    # Most arrays of so small a layer stay on the chip.
    most = {'grouped': 0.45, 'indexed': 0.3}[name]
    assert cost.count(programs[name]).bytes <= most * least(*SMALL)


# What docs/explanation/performance.md says of them.
@pytest.mark.long
@pytest.mark.parametrize(
    ('name', 'products', 'moved'),
    [
        ('mixtral', 1.017, 1.23),
        ('olmoe', 1.033, 1.29),
        ('qwen3', 1.064, 1.23),
        ('deepseek', 1.126, 1.09),
    ],
)
def test_models(tmp_path, name, products, moved):
    text = compiled.texts('tests.ops.tpu.layer', tmp_path, [name])[name]
    found, sizes = cost.count(hlo.parse(text)), MODELS[name]
    assert useful(*sizes) <= found.flops <= products * useful(*sizes)
    assert found.bytes <= moved * least(*sizes)


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

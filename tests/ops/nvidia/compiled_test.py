"""A dropless layer by the CUDA compiler, for an H100 and a B200."""

import json
import math
import re

import pytest

from launch.planning.hlo import parse
from launch.planning.products import product_flops
from tests import compiled
from tests.ops.nvidia.layer import CASES

pytestmark = [pytest.mark.slow, compiled.needs_cuda]

T, D, F, E, K = CASES['h100'][1:6]
ROWS = T * K  # of all experts


@pytest.fixture(scope='module')
def programs(tmp_path_factory):
    """(text, bytes of temporaries) of each case."""
    folder = tmp_path_factory.mktemp('programs')
    texts = compiled.texts('tests.ops.nvidia.layer', folder)
    size = lambda name: json.loads((folder / f'{name}.json').read_text())
    return {n: (text, size(n)['temporaries']) for n, text in texts.items()}


def products(text):
    """(shape, FLOPs once) of every product that the compiler sees."""
    return [
        (one.shape[0].dims, product_flops(computation, one))
        for computation in parse(text).computations.values()
        for one in computation.instructions.values()
        if one.opcode == 'dot'
    ]


def kernels(text):
    """How often each of our kernels is in a program."""
    names = re.findall(r'custom_call_target="mosaic_gpu_v2".*', text)
    return [
        sum(f'{kernel}_mosaic_gpu' in name for name in names)
        for kernel in ('moe_grouped_rows', 'moe_grouped_outer')
    ]


def largest(text):
    """Numbers of the largest array of a program."""
    arrays = [
        array
        for computation in parse(text).computations.values()
        for one in computation.instructions.values()
        for array in one.shape
    ]
    return max(math.prod(array.dims) for array in arrays)


def test_kernels_on_hopper(programs):
    text, _ = programs['h100']
    # Three products forward, for the three matrices of a gated expert, and
    # backward two for each, but for one that sums those of the rows of two
    # matrices; no other product but the router's, T D E.
    assert kernels(text) == [5, 3]
    router = [2 * T * D * E] * 3
    assert [flops for _, flops in products(text)] == router


def test_temporaries_on_hopper(programs):
    # The rows [T K, D], three of hidden [T K, F], the cotangent of the outputs
    # [T K, D] and the gradient of a matrix [E, D, F], in bfloat16: the others
    # are in the room of the results. Beside them is what the routing holds. The
    # masked product had 36.4 GiB.
    text, temporaries = programs['h100']
    held = 2 * (ROWS * (D + 3 * F) + ROWS * D + E * D * F)
    assert held + 2**20 < 0.69 * 2**30
    assert temporaries < held + 2**20
    # Nothing of E x rows x width, the like of which is 16 times as large.
    assert largest(text) == E * D * F


def test_blocks_elsewhere(programs):
    text, temporaries = programs['b200']
    assert kernels(text) == [0, 0]
    # 512 rows an expert, blocks of 256: 32 at a time with matrices of 2^21
    # numbers, of at most ROWS / 256 + E = 192, 1.5 times the rows. The router
    # has three products, and the gradient of a matrix has one block each time.
    once = sorted(flops for _, flops in products(text))
    block = 2 * 256 * D * F
    assert once == sorted([2 * T * D * E] * 3 + [32 * block] * 6 + [block] * 3)
    assert temporaries < 1.3 * 2**30
    assert largest(text) == E * D * F


def test_kernels_on_each_device(programs):
    # Inside shard_map: as many kernels, which see a quarter of the experts.
    text, _ = programs['ragged']
    assert kernels(text) == [5, 3]
    assert 'ragged-all-to-all' in text
    case = CASES['ragged']
    assert largest(text) <= case.experts * case.width * case.hidden


def test_rows_of_each_device(programs):
    # All experts on each device: none multiplies or holds the rows of others.
    text, _ = programs['data']
    assert kernels(text) == [5, 3]
    case = CASES['data']
    rows = case.tokens * case.k // 4
    shapes = [
        array.dims
        for computation in parse(text).computations.values()
        for one in computation.instructions.values()
        for array in one.shape
    ]
    for width in (case.width, case.hidden):
        assert (rows, width) in shapes
        assert (4 * rows, width) not in shapes

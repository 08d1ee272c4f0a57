"""Programs that the CUDA compiler made, counted by arithmetic."""

import numpy as np
import pytest

from launch.planning import cost, estimate, hlo
from launch.planning.chips import parse_topology
from tests import compiled
from tests.launch.planning.gpu_programs import STEPS, WIDTH, B, D, F, H, N, S

pytestmark = [pytest.mark.slow, compiled.needs_cuda]

TOPOLOGY = parse_topology('h100:2x2')
PLACES = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])


@pytest.fixture(scope='module')
def programs(tmp_path_factory):
    """Texts of the programs by name."""
    folder = tmp_path_factory.mktemp('programs')
    return compiled.texts('tests.launch.planning.gpu_programs', folder)


def counted(text):
    return cost.count(hlo.parse(text))


def test_products_of_a_loop(programs):
    # Two FLOPs a multiplication, N * D * D of them, as often as it runs.
    assert counted(programs['loop']).flops == STEPS * 2 * N * D * D


def test_products_and_their_gradients(programs):
    assert counted(programs['gradients']).flops == 3 * 2 * N * D * F


def test_attention(programs):
    # Of 2 x 2 blocks of 128 positions a causal mask leaves 3; two products of
    # scores forward, five backward.
    scores = B * H * S * S * WIDTH
    assert counted(programs['attention']).flops == 7 * 2 * scores * 3 / 4


def test_links(programs):
    rows = estimate.network(
        counted(programs['exchange']).collectives,
        {'node': 2, 'gpu': 2},
        PLACES,
        TOPOLOGY,
    )
    # A device has 2 * N * D numbers of 2 bytes. Half of them go to the other
    # GPU of the node; of the sum with the other node it receives twice half.
    size = 2 * 2 * N * D
    found = {row.kind: (row.axes, row.links) for row in rows}
    assert found == {
        'all-to-all': ('gpu', {'nvlink': size / 2, 'network': 0.0}),
        'all-reduce': ('node', {'nvlink': 0.0, 'network': size}),
    }
    # 450 and 50 GB/s.
    seconds = {row.kind: row.seconds for row in rows}
    assert seconds['all-to-all'] == pytest.approx(size / 2 / 450e9)
    assert seconds['all-reduce'] == pytest.approx(size / 50e9)


def test_sorting_needs_no_card(programs):
    # The library that sorts by radix would ask it: the program does not.
    assert ' sort(' in programs['sort']
    assert 'cub' not in programs['sort']

"""What a run costs, from known numbers."""

import dataclasses
import types

import pytest

from launch.planning import gpus, tpus
from moe.training.cost import Cost, peak_of
from moe.workloads.lm.planning import LanguageModelPlanning
from tests import tiny
from tests.training.evaluation_test import Sums


@dataclasses.dataclass
class Device:
    """A device of a known kind, with memory or without."""

    device_kind: str
    stats: dict | None = None
    process_index: int = 0

    def memory_stats(self):
        return self.stats


def workload(**flops):
    return types.SimpleNamespace(
        unit='tokens', units_per_step=8, flops_per_unit=lambda: flops
    )


def test_metrics():
    # 1e12 tokens/s of 5 FLOPs are 5 TFLOP/s; of two H100s 1978.8 a hundredth.
    devices = [
        Device('NVIDIA H100 80GB HBM3', {'peak_bytes_in_use': 7}),
        Device('NVIDIA H100 80GB HBM3', {'peak_bytes_in_use': 9}),
    ]
    cost = Cost(workload(head=3.0, router=2.0), devices)
    assert cost.constants() == {
        'cost/flops_per_token/head': 3.0,
        'cost/flops_per_token/router': 2.0,
    }
    found = cost.metrics(6, {'train/tokens_per_second': 3.9576e12})
    assert found == {
        'cost/tokens_seen': 48.0,
        'cost/model_tflops': pytest.approx(19.788),
        'cost/mfu': pytest.approx(0.01),
        'cost/device_memory_peak': 9.0,
    }
    assert 'cost/mfu' not in cost.metrics(1, {})


def test_what_is_not_known():
    cost = Cost(workload(), [Device('cpu')])
    assert cost.constants() == {}
    speed = {'train/tokens_per_second': 2.0}
    assert cost.metrics(1, speed) == {'cost/tokens_seen': 8.0}
    cost = Cost(workload(head=3.0), [Device('cpu')])
    found = cost.metrics(1, speed)
    assert found['cost/model_tflops'] == pytest.approx(6e-12)
    assert 'cost/mfu' not in found
    assert Sums().flops_per_unit() == {}


@pytest.mark.parametrize(
    ('kind', 'chip'),
    [
        ('TPU v4', tpus.TPUS['v4']),
        ('TPU v5 lite', tpus.TPUS['v5e']),
        ('TPU v5', tpus.TPUS['v5p']),
        ('TPU v5p', tpus.TPUS['v5p']),
        ('TPU v6 lite', tpus.TPUS['v6e']),
        ('TPU7x', tpus.TPUS['tpu7x']),
        ('NVIDIA A100-SXM4-80GB', gpus.GPUS['a100']),
        ('NVIDIA H100 80GB HBM3', gpus.GPUS['h100']),
        ('NVIDIA H200', gpus.GPUS['h200']),
    ],
)
def test_peaks_are_those_of_plans(kind, chip):
    # A plan's are of a chip, which may have several devices.
    assert peak_of(kind) == chip.flops / chip.devices


@pytest.mark.parametrize('kind', ['cpu', 'NVIDIA L4', 'NVIDIA H100 PCIe'])
def test_peaks_that_are_not_known(kind):
    assert peak_of(kind) is None


@pytest.mark.parametrize('tied', [False, True])
def test_flops_of_a_language_model(tied):
    # Width 16, two layers of four attention matrices of 16 x 16, a router of
    # 16 x 4, and 2 of the experts of three matrices of 16 x 16; the head is
    # 16 x 256. 6 for each, and the scores of 8 positions in the mean.
    config = tiny.parsed({'model.tie_embeddings': tied})
    found = config.make_workload().flops_per_unit()
    assert found == {
        'attention': 6 * 2 * 4 * 16 * 16 + 12 * 2 * 16 * 8,
        'router': 6 * 2 * 16 * 4,
        'experts': 6 * 2 * 2 * 3 * 16 * 16,
        'head': 6 * 16 * 256,
        'other': 6 * 5 * 16,
    }
    planning = LanguageModelPlanning(config)
    assert sum(found.values()) * 8 * 16 == planning.useful_flops()

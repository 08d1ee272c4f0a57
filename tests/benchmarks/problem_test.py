"""The layer that is measured has the rows that it says."""

import dataclasses

import numpy as np
import pytest

from benchmarks.problem import (
    Setting,
    inputs,
    logits,
    rows_within_capacity,
    weights,
)

SETTING = Setting(tokens=512, width=16, hidden=8, num_experts=8, group=64)
LOADS = ('balanced', 'half', 'zipf')


def counts(setting):
    """Rows of each expert, by loops."""
    found = np.zeros(setting.num_experts, int)
    for row in logits(setting):
        for expert in sorted(range(len(row)), key=lambda e: -row[e])[:2]:
            found[expert] += 1
    return found


@pytest.mark.parametrize('load', LOADS)
def test_router_sees_the_logits(load):
    setting = dataclasses.replace(SETTING, load=load)
    x, kernel = inputs(setting)
    np.testing.assert_allclose(x @ kernel, logits(setting), atol=1e-4)


def test_loads():
    balanced, half, zipf = (
        counts(dataclasses.replace(SETTING, load=load)) for load in LOADS
    )
    # A row in 8 is 128 of 1,024; five standard deviations of a binomial are
    # 5 * sqrt(1024 / 8 * 7 / 8) = 53.
    assert np.all(np.abs(balanced - 128) < 53)
    # Every token chooses expert 0: 512 rows, and the others share 512.
    assert half[0] == 512
    assert np.all(np.abs(half[1:] - 512 / 7) < 53)
    # Without replacement the first has less than 1 / H_8 = .37 of the draws,
    # and the order of the shares stays.
    assert 1 / 4 < zipf[0] / 1024 < 0.37
    assert zipf[0] > zipf[1] > zipf[3] > zipf[7]


@pytest.mark.parametrize('load', LOADS)
def test_rows_within_capacity(load):
    setting = dataclasses.replace(SETTING, load=load)
    assert setting.capacity == 20  # ceil(64 * 2 * 1.25 / 8)
    useful = 0
    for start in range(0, 512, 64):
        taken = [0] * 8
        for row in logits(setting)[start : start + 64]:
            for expert in sorted(range(8), key=lambda e: -row[e])[:2]:
                if taken[expert] < 20:
                    taken[expert] += 1
                    useful += 1
    rows = rows_within_capacity(setting)
    assert rows.useful == useful
    assert rows.dropped == 1024 - useful
    assert rows.padded == 8 * 8 * 20 - useful
    assert (rows.dropped > 300) == (load == 'half')


def test_sizes():
    # Three matrices of 16 x 8, 8 times, in 4 bytes.
    assert SETTING.weight_bytes == 8 * 3 * 16 * 8 * 4
    assert sum(w.nbytes for w in weights(8, 16, 8, 'float32').values()) == (
        SETTING.weight_bytes
    )
    # 1,024 rows through three matrices, and twice that for the gradients.
    assert SETTING.flops == 3 * (2 * 1024 * 3 * 16 * 8)

"""The loss of mixed and of smoothed labels, class by class."""

import numpy as np
import pytest

from moe.workloads.vision.objective import cross_entropies
from tests.reference import vision_data

LOGITS = np.float32([[1, 2, -1, 0], [0.5, 0, 3, -2], [0, 0, 0, 0]])
LABEL = np.int32([1, 0, 3])
OTHER = np.int32([2, 0, 1])
WEIGHT = np.float32([0.25, 0.5, 1])


@pytest.mark.parametrize('mixes', [False, True])
@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_losses_by_hand(mixes, smoothing):
    batch = {'label': LABEL}
    if mixes:
        batch |= {'other': OTHER, 'weight': WEIGHT}
    desired = []
    for i in range(3):
        target = np.zeros(4)
        target[LABEL[i]] += WEIGHT[i] if mixes else 1
        target[OTHER[i]] += 1 - WEIGHT[i] if mixes else 0
        target = (1 - smoothing) * target + smoothing / 4
        desired.append(vision_data.cross_entropy(np.float64(LOGITS[i]), target))
    found = cross_entropies(LOGITS, batch, smoothing)
    np.testing.assert_allclose(found, desired, rtol=1e-6)

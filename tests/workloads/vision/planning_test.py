"""A vision transformer that is planned."""

import jax
import pytest

from configs import vision
from moe.workloads.planned import planning_of
from moe.workloads.planning import Planning
from tests import tiny
from tests.workloads.vision.workload_test import SMALL

# The digits that come with the library are of 8 x 8 pixels.
DIGITS = {**SMALL, 'model.image_size': 8, 'model.num_classes': 10}


def planned(**changes):
    plain = tiny.changed(vision.get_config('dense'), {**DIGITS, **changes})
    return planning_of(tiny.check(plain))


@pytest.mark.parametrize('mixup', [0.0, 0.2])
def test_batch_is_the_one_that_training_yields(mixup):
    found = planned(**{'data.augment.mixup': mixup})
    batch = next(found.workload.train_batches(found.workload.load_data(), 0, 1))
    assert jax.tree.map(lambda s: (s.shape, s.dtype), found.batch) == (
        jax.tree.map(lambda x: (x.shape, x.dtype), batch)
    )


def test_useful_flops_are_the_products_of_the_step():
    # Every patch sees all: of a dense model the formula is about what the
    # step multiplies, the head and the first layer's inputs aside.
    found = planned(**{'model.d_model': 32, 'model.dense.hidden': 128})
    products = Planning.useful_flops(found)
    assert found.useful_flops() == pytest.approx(products, rel=0.1)

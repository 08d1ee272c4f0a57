"""A trained vision transformer opened: logits and routing."""

import jax
import numpy as np
import pytest

import moe
from configs import vision
from moe import training
from tests import tiny
from tests.workloads.load_test import saved
from tests.workloads.vision.workload_test import SMALL

pytestmark = pytest.mark.slow


def opened(folder, variant):
    """A run of untrained parameters, and a head that is not zero."""

    def make(config):
        state = jax.jit(lambda: training.init_state(config))()
        head = tiny.numbers(state.params['head'].shape, 1)
        return state._replace(params={**state.params, 'head': head})

    plain = tiny.changed(vision.get_config(variant), SMALL)
    return moe.load(saved(folder, plain, make=make))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return opened(tmp_path_factory.mktemp('runs') / 'run', 'vmoe')


def test_logits_are_the_model_s(run):
    images = tiny.numbers((2, 4, 4, 1), 0)
    desired = jax.jit(run.model.apply)(run.variables, images)[0]
    assert np.std(desired) > 1e-3
    np.testing.assert_allclose(run.logits(images), desired, rtol=1e-5)


def test_routing_is_of_every_patch(run):
    images = tiny.numbers((2, 4, 4, 1), 0)
    found = run.routing(images)
    places = [f'layer_{i}' for i in run.config.model.moe_layers]
    assert [layer.place for layer in found] == places
    patches = run.config.model.num_patches
    for layer in found:
        assert layer.weight.shape == (2, patches, 4)
        assert layer.chosen.any(axis=-1).all()
        assert (layer.weight[~layer.chosen] == 0).all()


def test_soft_mixtures_assign_no_patch(tmp_path):
    soft = opened(tmp_path / 'run', 'soft')
    assert soft.routing(tiny.numbers((1, 4, 4, 1), 0)) == []

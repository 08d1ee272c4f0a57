"""The same training on any mesh."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from moe.parallel import (
    MeshConfig,
    batch_sharding,
    make_mesh,
    parameter_shardings,
)
from moe.parallel.mesh import AXES
from moe.training.step import make_train_step
from tests import tiny

pytestmark = pytest.mark.slow

BATCHES = np.random.default_rng(0).integers(0, 9, (5, 8, 17), np.uint8)


@functools.lru_cache
def initial():
    return tiny.state(tiny.parsed())


def train(sizes, dispatcher='indexed'):
    """Losses and the last state of five steps on a mesh of these sizes."""
    config = tiny.parsed(
        {'model.moe.dispatcher': dispatcher, 'optimizer.learning_rate': 0.01}
    )
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: np.prod(sizes)])
    with jax.set_mesh(mesh):
        shardings = parameter_shardings(
            mesh, initial(), config.make_workload().parameters
        )
        # Steps give their state away: each run has a key of its own.
        state = initial()._replace(key=jax.random.key(1))
        state = jax.device_put(state, shardings)
        step = jax.jit(
            make_train_step(config),
            donate_argnums=0,
            out_shardings=(shardings, None),
        )
        losses = []
        with tiny.compilations() as compiled:
            for batch in BATCHES:
                old = state
                tokens = jax.device_put(batch, batch_sharding(mesh))
                state, metrics = step(state, tokens)
                names = ('train/loss', 'train/load_balance')
                losses.append([float(metrics[name]) for name in names])
        # One program for every step, and no second copy of the state.
        assert compiled.count('train_step') == 1
        assert all(x.is_deleted() for x in jax.tree.leaves(old.params))
    return np.array(losses), state


@functools.lru_cache
def on_one_device():
    losses, state = train((1, 1, 1, 1, 1))
    return losses, jax.device_get(state.params)


# Devices along replica, data, fsdp, expert, tensor.
@pytest.mark.parametrize(
    ('sizes', 'dispatcher'),
    [
        ((1, 8, 1, 1, 1), 'grouped'),
        ((1, 1, 2, 2, 2), 'indexed'),
    ],
    ids=str,
)
def test_same_curve_on_any_mesh(sizes, dispatcher):
    desired, params = on_one_device()
    assert desired[4, 0] < desired[0, 0] - 0.1
    losses, state = train(sizes, dispatcher)
    np.testing.assert_allclose(losses, desired, rtol=1e-5)
    # Adam turns the rounding of a gradient near zero into a step; of five
    # steps of at most .01 no more than a few entries differ by one.
    for a, b in zip(
        jax.tree.leaves(jax.device_get(state.params)),
        jax.tree.leaves(params),
        strict=True,
    ):
        assert np.mean(np.abs(a - b) > 1e-4) < 0.01
    experts = state.params['stack']['layers']['block_0']['moe']['experts']
    halves = [sizes[AXES.index(n)] for n in ('expert', 'fsdp', 'tensor')]
    local = experts['up'].addressable_shards[0].data.shape
    assert local == (2, *np.floor_divide((4, 16, 16), halves))
    assert state.step.sharding.spec == P()

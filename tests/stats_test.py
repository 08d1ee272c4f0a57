"""Routing statistics against arithmetic, alone and over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from moe.stats import routing_stats
from tests.reference import layer as reference
from tests.reference.compare import assert_close

UNIFORM, SURE = [0.25] * 4, [0.0, 0.0, 1.0, 0.0]


def test_known_routing():
    # Eight assignments [4, 2, 2, 0] of two groups, of which 2 are dropped:
    # load = [2, 1, 1, 0], its standard deviation sqrt((1+0+0+1)/4) = .7071.
    # Live are one unsure token, entropy log 4, confidence .25, and two sure
    # ones, entropy 0, confidence 1; the fourth is padding.
    stats = routing_stats(
        probs=jnp.array([[UNIFORM, SURE], [SURE, UNIFORM]]),
        counts=jnp.array([[3.0, 1.0, 0.0, 0.0], [1.0, 1.0, 2.0, 0.0]]),
        within_capacity=jnp.array([[[1, 1], [1, 0]], [[1, 1], [1, 0]]], bool),
        mask=jnp.array([[True, True], [True, False]]),
    )
    desired = {
        'load': np.array([2, 1, 1, 0]),
        'load_max': 2,
        'load_min': 0,
        'load_cv': np.sqrt(0.5),
        'max_violation': 1,
        'entropy': np.log(4) / 3,
        'confidence': 2.25 / 3,
        'dropped': 2 / 8,
        'dead_experts': 1,
        'experts_per_token': 8 / 3,
    }
    assert_close(stats, desired, 1e-6)
    assert {s.dtype for s in stats.values()} == {jnp.dtype('float32')}


def test_balanced_routing():
    # Two tokens an expert: load 1 everywhere, no violation, no drop.
    stats = routing_stats(
        jnp.array([[UNIFORM] * 8]),
        jnp.full((1, 4), 2.0),
        jnp.ones((1, 1, 8), bool),
        jnp.ones((1, 8), bool),
    )
    assert stats['load'].tolist() == [1, 1, 1, 1]
    for name in ('load_cv', 'max_violation', 'dropped', 'dead_experts'):
        assert stats[name] == 0, name


def test_nothing_live_is_finite():
    stats = routing_stats(
        jnp.array([[UNIFORM, SURE]]),
        jnp.zeros((1, 4)),
        jnp.zeros((1, 1, 2), bool),
        jnp.zeros((1, 2), bool),
    )
    desired = dict.fromkeys(stats, 0)
    desired.update(load=np.zeros(4), max_violation=-1, dead_experts=4)
    assert_close(stats, desired, 0)


def random_stats(seed=0):
    """probs, counts, kept and mask of 8 groups of 6 tokens, 3 experts."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(3), (8, 6)).astype(np.float32)
    mask = np.arange(6) < 6 - np.arange(8)[:, None]
    chosen = np.argmax(probs, axis=-1)[:, None]
    counts = reference.count(chosen, mask, 3).astype(np.float32)
    kept = (rng.random(chosen.shape) < 0.7) & mask[:, None]
    return probs, counts, kept, mask


@pytest.mark.parametrize('how', ['alone', 'shard_map', 'pmap'])
def test_equals_the_loop_over_any_devices(how):
    # One group a device, some devices without a live token.
    args = random_stats()
    over = functools.partial(routing_stats, axis_name='data')
    if how == 'alone':
        stats = jax.jit(routing_stats)(*args)
    elif how == 'shard_map':
        mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
        mapped = jax.shard_map(
            over,
            mesh=mesh,
            in_specs=(PartitionSpec('data'),) * 4,
            out_specs=PartitionSpec(),
        )
        stats = jax.jit(mapped)(*args)
    else:
        copies = jax.pmap(over, axis_name='data')(*(a[:, None] for a in args))
        for device in range(1, 8):
            assert_close(
                *[{n: s[d] for n, s in copies.items()} for d in (0, device)], 0
            )
        stats = {name: copy[0] for name, copy in copies.items()}
    probs, counts, kept, mask = args
    desired = reference.statistics(np.float64(probs), counts, kept, mask)
    assert 0 < desired['dropped'] < 1
    assert_close(stats, desired, 1e-6)

"""Quantities as sums: parts add up to the whole, and nothing is not zero."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import losses, stats
from moe.layers.auxiliary import LOSSES
from moe.totals import Derived, Mean, average, constant, mean_over
from moe.types import RoutingSummary
from tests.reference.compare import assert_close

add = functools.partial(jax.tree.map, jnp.add)


def test_a_mean_is_of_the_sums():
    # Labels 3 in one part, 1 and 5 in the other: 9 / 3, not (3 + 3) / 2; and
    # 8 beside a part without any label stays 8, not 4.
    assert add(Mean(3.0, 1.0), Mean(6.0, 2.0)).value == 3
    assert add(Mean(8.0, 1.0), Mean(0.0, 0.0)).value == 8
    # Of weights below 1 too.
    assert Mean(0.5, 0.25).value == 2


def test_nothing_has_no_value():
    nothing = Mean(jnp.zeros(()), jnp.zeros(()))
    assert np.isnan(nothing.value)
    assert nothing.term == 0
    assert np.isnan(mean_over(jnp.zeros(3, bool), jnp.ones(3)).value)
    empty = Derived(jnp.zeros(4), jnp.zeros(()), losses.cv_squared)
    assert np.isnan(empty.value)
    assert empty.term == 0


@pytest.mark.parametrize('read', ['value', 'term'])
@pytest.mark.parametrize('count', [0.0, 2.0])
def test_gradients_are_finite_without_data(read, count):
    def read_of(x):
        value = getattr(Mean(x, jnp.float32(count)), read)
        return jnp.where(count > 0, value, 0.0)

    assert jax.grad(read_of)(3.0) == (0.5 if count else 0)


def test_mean_over_what_is_valid():
    mask = jnp.array([True, False, True])
    values = jnp.array([1.0, jnp.nan, 4.0])
    assert mean_over(mask, values) == Mean(5.0, 2.0)
    assert mean_over(None, values[:1]) == Mean(1.0, 1.0)
    total = add(constant(7.0), constant(7.0))
    assert total.value == 7


def test_average_is_of_the_sums_where_it_can_be():
    # Two gates over the same examples: (3 / 2 + 5 / 2) / 2.
    gates = Mean(jnp.array([3.0, 5.0]), jnp.array([2.0, 2.0]))
    found = average([gates], last_axis=True)
    assert isinstance(found, Mean)
    assert found.value == 2
    other = Derived(jnp.array([0.0, 4.0]), jnp.float32(2), losses.cv_squared)
    # Variance 8 of 0 and 4 over the squared mean 4, and the mean 1.5.
    found = average([Mean(jnp.float32(3), jnp.float32(2)), other])
    np.testing.assert_allclose(found.value, (1.5 + 2) / 2, rtol=1e-6)


def test_statistics_are_of_the_summed_load():
    # Four parts of 16 assignments to 16 experts; each leaves experts without
    # one, the whole none: 10, 10, 2 x 8, 2 x ... of 64, 4 at balance.
    whole = np.array([10, 10, 8, 8, 4, 4, 4, 2, 2, 2, 2, 2, 2, 2, 1, 1.0])
    assert np.sum(whole) == 64
    experts = np.repeat(np.arange(16), whole.astype(int))
    parts = [
        stats.routing_total(
            jnp.full((1, 16, 16), 1 / 16),
            jnp.asarray(np.bincount(experts[i::4], minlength=16)[None], float),
            jnp.float32(16),
            jnp.ones((1, 16), bool),
        )
        for i in range(4)
    ]
    assert all(part.term['dead_experts'] > 0 for part in parts)
    found = functools.reduce(add, parts).term
    # load = counts / 4: its maximum 10 / 4, its deviation by hand.
    desired = {
        'load': whole / 4,
        'load_max': 2.5,
        'max_violation': 1.5,
        'load_min': 0.25,
        'load_cv': np.sqrt(np.mean((whole / 4 - 1) ** 2)),
        'dead_experts': 0,
        'dropped': 0,
        'experts_per_token': 1,
        'entropy': np.log(16),
        'confidence': 1 / 16,
    }
    assert_close(found, desired, 1e-6)


@pytest.mark.parametrize('name', LOSSES)
def test_losses_of_parts_add_up_to_the_whole(name):
    # Groups with 6, 1, 0 and 3 valid tokens, in parts of one group or two.
    draw = np.random.default_rng(0)
    mask = np.arange(6) < np.array([6, 1, 0, 3])[:, None]
    shape = (4, 6, 5)
    live = mask[..., None]
    gates = (draw.random(shape) * live).astype(np.float32)
    chosen = ((draw.random(shape) < 0.4) & live).astype(np.float32)

    def total(rows):
        summary = RoutingSummary(
            probs=jnp.asarray(draw_probs[rows]),
            logits=jnp.asarray(draw_logits[rows]),
            mask=jnp.asarray(mask[rows]),
            gates=jnp.asarray(gates[rows]),
            assignments=jnp.asarray(chosen[rows]),
            balance_assignments=jnp.asarray(chosen[rows]),
            unbiased_assignments=jnp.asarray(chosen[rows]),
            penalized_gates=jnp.asarray(gates[rows]),
            selection_probability=jnp.asarray(gates[rows]),
            num_sequences=len(mask[rows]),
            state={'penalty': jnp.float32(0.5)},
        )
        return LOSSES[name](summary)

    draw_probs = draw.dirichlet(np.ones(5), (4, 6)).astype(np.float32)
    draw_logits = draw.normal(size=shape).astype(np.float32)
    whole = total(slice(None))
    assert whole.count > 0
    for size in (1, 2):
        each = [total(slice(i, i + size)) for i in range(0, 4, size)]
        found = functools.reduce(add, each)
        np.testing.assert_allclose(found.value, whole.value, rtol=1e-6)
        np.testing.assert_array_equal(found.count, whole.count)
    assert np.isnan(total(slice(2, 3)).value)

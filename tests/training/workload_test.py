"""What the loop makes of a task's sums."""

import jax.numpy as jnp

from moe.training.workload import mean_of


def test_means_are_over_the_count():
    sums = {'loss': jnp.array(6.0), 'right': jnp.array(3.0)}
    means = mean_of({**sums, 'count': jnp.array(4.0)})
    assert {k: float(v) for k, v in means.items()} == {
        'loss': 1.5,
        'right': 0.75,
    }


def test_nothing_live_is_zero():
    assert mean_of({'loss': jnp.array(0.0), 'count': jnp.array(0.0)}) == {
        'loss': 0
    }

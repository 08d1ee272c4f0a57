"""The tasks of a product: every row once, in blocks of nearly equal height."""

import jax.numpy as jnp
import numpy as np
import pytest

from moe.ops.native.calls import tasks_of


def test_tasks():
    # 600 rows are ceil(600/256) = 3 blocks of 200; the 424 past the last
    # group 2 blocks of 212, of group 3. Room for 1024/256 + 3 + 1 = 8.
    tasks = tasks_of(jnp.array([0, 600, 0]), 1024)
    assert tasks.tolist() == [
        [1, 0, 200],
        [1, 200, 200],
        [1, 400, 200],
        [3, 600, 212],
        [3, 812, 212],
        *[[3, 0, 0]] * 3,
    ]


@pytest.mark.parametrize(
    'sizes', [[0, 0], [1, 0], [255, 257], [513, 511], [0, 1024], [600, 600]]
)
def test_every_row_has_one_task(sizes):
    # Groups that promise more rows than there are end with the last row.
    tasks = np.asarray(tasks_of(jnp.array(sizes), 1024))
    assert tasks[:, 2].max() <= 256
    rows = [
        (row, group)
        for group, first, count in tasks.tolist()
        for row in range(first, first + count)
    ]
    expected = np.repeat([0, 1], sizes)[:1024].tolist()
    expected += [2] * (1024 - len(expected))
    assert sorted(rows) == list(enumerate(expected))

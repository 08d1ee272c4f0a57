"""Rows between devices: where each lies, and that all arrive."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from moe.parallel.ragged import (
    move,
    offsets,
    regrouping,
    rows_within_buffer,
)
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow

SIZES = np.array([[2, 0, 1], [0, 3, 1], [4, 1, 0]], np.int32)
A, R, D = 5, 7, 2


def test_offsets():
    # Input offsets: exclusive sums along the row; output offsets: along the
    # column.
    source, target = offsets(jnp.asarray(SIZES))
    assert source.tolist() == [[0, 2, 2], [0, 0, 3], [0, 4, 5]]
    assert target.tolist() == [[0, 0, 0], [2, 0, 1], [2, 3, 2]]


def moved(rows):
    """The rows of [n, A, D] where they belong, [n, R, D], by hand."""
    out = np.zeros((3, R, D), rows.dtype)
    for to in range(3):
        place = 0
        for source in range(3):
            first = SIZES[source, :to].sum()
            for i in range(SIZES[source, to]):
                out[to, place] = rows[source, first + i]
                place += 1
    return out


def over_three(function, **options):
    mesh = jax.make_mesh(
        (3,),
        ('expert',),
        devices=jax.devices()[:3],
        axis_types=(jax.sharding.AxisType.Auto,),
    )
    return jax.jit(
        jax.shard_map(
            lambda v: function(v[0])[None],
            mesh=mesh,
            in_specs=P('expert'),
            out_specs=P('expert'),
            check_vma=False,
        )
    )


def test_every_row_arrives_once():
    draw = np.random.default_rng(0)
    rows = draw.standard_normal((3, A, D), np.float32)
    go = functools.partial(
        move, sizes=jnp.asarray(SIZES), axis_name='expert', buffer_size=R
    )
    run = over_three(go)
    desired = moved(rows)
    assert_close(run(rows), desired, 0)
    # The gradient: each row's, where it came from; 0 for those that stayed.
    dy = draw.standard_normal((3, R, D), np.float32)
    found = jax.jit(jax.grad(lambda v: jnp.sum(run(v) * dy)))(rows)
    numbers = np.arange(1, 3 * A * D + 1, dtype=np.float32).reshape(rows.shape)
    where = moved(numbers)
    back = np.zeros_like(rows)
    for place in np.argwhere(where):
        back.flat[int(where[tuple(place)]) - 1] = dy[tuple(place)]
    assert_close(found, back, 0)


def test_native_all_to_all_of_another_platform():
    # The program for a TPU has it, forward and backward. The offsets and sizes
    # that it gets are those of the check above.
    go = functools.partial(
        move, sizes=jnp.asarray(SIZES), axis_name='expert', buffer_size=R
    )
    run = over_three(go)
    rows = jax.ShapeDtypeStruct((3, A, D), jnp.float32)
    step = jax.jit(jax.grad(lambda v: jnp.sum(run(v) ** 2)))
    there = step.trace(rows).lower(lowering_platforms=('tpu',)).as_text()
    assert there.count('stablehlo.custom_call @ragged_all_to_all') == 2
    assert 'stablehlo.all_to_all' not in there
    here = step.trace(rows).lower(lowering_platforms=('cpu',)).as_text()
    assert 'ragged_all_to_all' not in here
    assert here.count('"stablehlo.all_to_all"') == 2


@pytest.mark.parametrize('seed', range(3))
def test_regrouping(seed):
    counts = np.random.default_rng(seed).integers(0, 4, (3, 4))
    total, size = counts.sum(), counts.sum() + 2
    rows = [(n, m, i) for n, m in np.ndindex(3, 4) for i in range(counts[n, m])]
    order = sorted(rows, key=lambda row: (row[1], row[0], row[2]))
    place = regrouping(jnp.asarray(counts), size).tolist()
    assert place == [order.index(row) for row in rows] + [size] * 2
    back = regrouping(jnp.asarray(counts.T), size).tolist()
    assert [back[p] for p in place[:total]] == list(range(total))


def test_fit_counts_what_sender_and_receiver_lose():
    # From 3 devices to 2 experts on each of 3. Device 0 is sent 3 + 2 + 4 = 9
    # rows, 1 6, 2 8; with buffers of 5, 4, 1 and 3 are turned away, the last.
    counts = np.array(
        [
            [[2, 1], [3, 0], [0, 4]],
            [[0, 2], [1, 1], [2, 2]],
            [[3, 1], [0, 1], [0, 0]],
        ]
    )
    kept = np.asarray(rows_within_buffer(jnp.asarray(counts), 5))
    assert kept.tolist() == [
        [[2, 1], [3, 0], [0, 4]],
        [[0, 2], [1, 1], [1, 0]],
        [[0, 0], [0, 0], [0, 0]],
    ]
    lost = counts - kept
    assert lost.sum((1, 2)).tolist() == [0, 3, 5]  # by sender
    assert lost.sum((0, 2)).tolist() == [4, 1, 3]  # by receiver
    np.testing.assert_array_equal(
        rows_within_buffer(jnp.asarray(counts), 9), counts
    )

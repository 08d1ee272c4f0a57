"""The kernels for Hopper, interpreted on a CPU, against a loop over rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu

from moe.ops.nvidia import hopper
from tests.reference.compare import assert_close
from tests.reference.grouped import grouped_products, whole_numbers

pytestmark = pytest.mark.slow
# jax 0.10 cannot interpret them: there only the compiler sees them.
interpreted = pytest.mark.skipif(
    jax.__version_info__ < (0, 12), reason='jax 0.12 interprets the kernels'
)
tiles_of = jax.jit(hopper.tiles_of, static_argnums=(1, 2))
SMS = 2  # multiprocessors, each with a thread of the interpreter


@functools.cache
def compiled():
    """The kernels, interpreted; one program for each shape."""

    @jax.jit
    def run(x, w, sizes, dy):
        return (
            hopper.rows_times([x], [w], sizes, False, SMS),
            hopper.rows_times([dy], [w], sizes, True, SMS),
            hopper.outer(x, dy, sizes, SMS),
        )

    return run


def products(x, w, sizes, dy):
    """(y, dx, dw) by the kernels."""
    x, w, dy = (jnp.asarray(v, jnp.bfloat16) for v in (x, w, dy))
    with mosaic_gpu.force_gpu_interpret_mode():
        results = compiled()(x, w, jnp.asarray(sizes, jnp.int32), dy)
    assert [v.dtype for v in results] == [jnp.bfloat16] * 3
    return results


# Tiles of 128 rows; chunks and steps of 64; loads from multiples of 8 on.
LARGE = 256, (128, 192)  # widths of 1 and 1.5 tiles
SMALL = 90, (72, 136)  # off every block


@interpreted
@pytest.mark.parametrize(
    ('shape', 'sizes'),
    [
        (LARGE, [128, 103]),  # one tile that is full; 25 rows past the end
        (LARGE, [5, 251]),  # in three tiles
        (LARGE, [0, 256]),
        (SMALL, [3, 2, 0, 70, 9]),  # groups that share 8 rows
        (SMALL, [0, 64, 1, 0, 25]),
        (SMALL, [0, 0, 0, 0, 0]),
    ],
    ids=str,
)
def test_against_a_loop_over_rows(shape, sizes):
    num_rows, widths = shape
    x, w, dy = whole_numbers(num_rows, len(sizes), widths)
    actual = products(x, w, sizes, dy)
    # Exact inputs and sums, which are rounded once, by 2^-8.
    assert_close(actual, grouped_products(x, w, sizes, dy), 2**-8)
    empty = slice(sum(sizes), None)
    assert not np.any(actual[0][empty])
    assert not np.any(actual[1][empty])


@interpreted
def test_products_are_summed():
    # Of rows of two widths.
    sizes = [103, 0, 50]
    parts = [whole_numbers(153, 3, (128, k), seed=k) for k in (64, 192)]
    given = [[jnp.asarray(v, jnp.bfloat16) for v in part] for part in parts]

    @jax.jit
    def run(dys, ws):
        return hopper.rows_times(dys, ws, jnp.array(sizes), True, SMS)

    with mosaic_gpu.force_gpu_interpret_mode():
        actual = run([p[2] for p in given], [p[1] for p in given])
    each = [grouped_products(x, w, sizes, dy)[1] for x, w, dy in parts]
    assert_close(actual, each[0] + each[1], 2**-8)


@interpreted
@pytest.mark.filterwarnings('ignore:invalid value encountered')
def test_what_is_not_finite_stays_in_its_group():
    # Past the end, beside an empty group, and in the rows of group 0 that are
    # in one step and one chunk with those of the others.
    sizes = [40, 0, 17, 0, 0]
    num_rows, widths = SMALL
    x, w, dy = whole_numbers(num_rows, 5, widths)
    expected = grouped_products(x, w, sizes, dy)
    x[57:], dy[57:] = np.nan, np.inf
    x[39], dy[38] = np.inf, np.nan
    y, dx, dw = products(x, w, sizes, dy)
    assert not np.any(np.isfinite(y[39]))
    assert not np.any(np.isfinite(dx[38]))
    y, dx, dw = (np.float64(v) for v in (y, dx, dw))
    y[39], dx[38], dw[0] = expected[0][39], expected[1][38], expected[2][0]
    assert_close((y, dx, dw), expected, 2**-8)


def tiles(sizes, num_rows, block):
    *columns, (count,) = tiles_of(jnp.array(sizes), num_rows, block)
    return np.stack(columns, axis=1)[:count].tolist()


def test_tiles():
    # Groups of 70 from row 0, 130 from row 70, so from 64 on with 6 of others,
    # and 20 from row 200 on, whose tile is moved up to end with the rows.
    assert tiles([70, 0, 130, 20], 256, 64) == [
        [0, 0, 0, 64],
        [64, 0, 0, 6],
        [64, 2, 6, 64],
        [128, 2, 0, 64],
        [192, 2, 0, 8],
        [192, 3, 8, 28],
    ]
    assert tiles([0, 0], 64, 64) == []
    # Equal groups that start at a multiple of 8 are in as many as they fill.
    assert len(tiles([512] * 64, 64 * 512, 128)) == 64 * 512 / 128


@pytest.mark.parametrize('block', [64, 128])
@pytest.mark.parametrize(
    'sizes',
    [[0, 0], [1, 255], [7, 9, 100], [256], [300, 5], [64] * 4, [1] * 256],
    ids=lambda sizes: f'{sizes[:3]}',
)
def test_every_row_has_a_tile_of_its_group(sizes, block):
    # Groups that promise more rows than there are end with the last row.
    found = {}
    for row, group, start, end in tiles(sizes, 256, block):
        assert row % 8 == 0
        assert 0 <= row <= 256 - block
        assert 0 <= start < end <= block
        for a in range(row + start, row + end):
            assert found.setdefault(a, group) == group
    expected = np.repeat(np.arange(len(sizes)), sizes)[:256]
    assert found == dict(enumerate(expected.tolist()))


@pytest.mark.parametrize(
    ('width', 'columns'),
    [(128, 128), (192, 128), (256, 256), (768, 256), (1408, 256), (2880, 256)],
)
def test_columns_of_a_tile(width, columns):
    # The wide ones if they compute at most 15 % more than there is.
    tiling = hopper.Tiling.of(width, buffers=2)
    assert tiling.columns == columns
    # A step of both operands, of which there are three in shared memory.
    assert tiling.stages >= 3


@pytest.mark.parametrize(
    ('widths', 'copied'),
    [((192, 320), False), ((64, 192), True), ((200, 192), True)],
)
def test_only_widths_off_the_blocks_are_copied(widths, copied):
    # Multiples of 64, two of them at least, are taken as they are.
    x, w, dy = whole_numbers(256, 2, widths)
    args = (jnp.asarray(v, jnp.bfloat16) for v in (x, w, dy))

    def run(x, w, dy):
        sizes = jnp.array([128, 128])
        y = hopper.rows_times([x], [w], sizes, False, SMS)
        dx = hopper.rows_times([dy], [w], sizes, True, SMS)
        return y, dx, hopper.outer(x, dy, sizes, SMS)

    assert (' pad[' in str(jax.make_jaxpr(run)(*args))) == copied

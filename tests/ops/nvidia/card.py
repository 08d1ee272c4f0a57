"""Grouped products and their gradients on the GPU that is here, to float64.

    python -m tests.ops.nvidia.card

prints the error of every case, as JSON lines. It runs in a process of its own:
the others of the tests see CPUs alone.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np

from moe.ops import grouped_matmuls

# (E, A, D, F): on the blocks of the kernels, off them, and less than a tile.
SHAPES = [
    (8, 4096, 512, 1024),
    (64, 8192, 1024, 512),
    (16, 1000, 200, 136),
    (5, 90, 72, 136),
]
DTYPES = ('bfloat16', 'float16', 'float32')
LOADS = ('equal', 'random', 'half', 'gaps', 'one', 'none', 'tiny')


def sizes_of(load, num_groups, num_rows):
    """Rows of each group; those of some loads leave rows past the end."""
    draw = np.random.default_rng(num_rows)
    drawn = lambda rows: np.bincount(
        draw.integers(0, num_groups, rows), minlength=num_groups
    )
    sizes = np.zeros(num_groups, int)
    if load == 'equal':
        sizes[:] = num_rows // num_groups
    elif load == 'random':
        sizes = drawn(num_rows)
    elif load == 'half':
        sizes = drawn(num_rows - num_rows // 2)
        sizes[0] += num_rows // 2
    elif load == 'gaps':
        sizes = drawn(num_rows - num_rows // 7)
        sizes[1::3] = 0
    elif load == 'one':
        sizes[num_groups // 2] = num_rows
    elif load == 'tiny':
        sizes = draw.integers(0, 9, num_groups)
    return sizes


def drawn(normal, dtype, *shape):
    """Normal numbers, rounded to a dtype."""
    return np.array(jnp.asarray(normal(shape, np.float32), dtype))


def exact(x, w, dy, sizes):
    """(y, dx, dw) in float64, group by group."""
    x, w, dy = np.float64(x), np.float64(w), np.float64(dy)
    y, dx, dw = np.zeros(dy.shape), np.zeros(x.shape), np.zeros(w.shape)
    ends = np.cumsum(sizes)
    for e, (start, end) in enumerate(zip(ends - sizes, ends, strict=True)):
        mine = slice(start, end)
        y[mine], dx[mine] = x[mine] @ w[e], dy[mine] @ w[e].T
        dw[e] = x[mine].T @ dy[mine]
    return y, dx, dw


def error(actual, desired):
    """Norm of the difference over that of what is desired."""
    difference = np.linalg.norm(np.float64(actual) - desired)
    return float(difference / max(np.linalg.norm(desired), 1e-30))


@jax.jit
def products(x, w, v, dy, sizes):
    """y by w, and gradients of x, w and v where dy comes to both."""
    multiply = lambda x, w, v: grouped_matmuls(x, (w, v), sizes)
    (y, _), pull = jax.vjp(multiply, x, w, v)
    return y, *pull((dy, dy))


def main():
    for dtype in DTYPES:
        for shape in SHAPES:
            num_groups, num_rows, width, hidden = shape
            for load in LOADS:
                sizes = sizes_of(load, num_groups, num_rows)
                draw_normal = np.random.default_rng(0).standard_normal
                normal = functools.partial(drawn, draw_normal, dtype)
                x, dy = normal(num_rows, width), normal(num_rows, hidden)
                w, v = (normal(num_groups, width, hidden) for _ in range(2))
                # What is past the end is not read.
                x[sum(sizes) :], dy[sum(sizes) :] = np.nan, np.inf
                actual = products(x, w, v, dy, jnp.asarray(sizes, jnp.int32))
                y, dx, dw = exact(x, w, dy, sizes)
                other = exact(x, v, dy, sizes)[1]
                desired = y, dx + other, dw, dw
                errors = map(error, actual, desired)
                print(
                    json.dumps(
                        {
                            'dtype': dtype,
                            'shape': shape,
                            'load': load,
                            'errors': [float(f'{e:.2e}') for e in errors],
                        }
                    ),
                    flush=True,
                )


if __name__ == '__main__':
    main()

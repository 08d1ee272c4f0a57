"""Calls of the kernels: the tasks of a product, and XLA's custom call."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

BLOCK_ROWS = 256  # rows of a task
# Activations of gated experts that there are kernels for.
ACTIVATIONS = ('swiglu', 'geglu')


def rows_times(
    x: Float[Array, 'A K'],
    w: Float[Array, 'E _ _'],
    group_sizes: Int[Array, 'E'],
    transpose: bool,
) -> Float[Array, 'A N']:
    """Multiplies each group of rows with its matrix; other rows give zero.

    Args:
      x: rows sorted by group, float32.
      w: one matrix a group, float32: [E, K, N], or [E, N, K] if transposed.
      group_sizes: rows of each group, int32.
      transpose: whether to multiply with the transposed matrices.

    Returns:
      The products, float32.
    """
    width = w.shape[1] if transpose else w.shape[2]
    out = jax.ShapeDtypeStruct((x.shape[0], width), jnp.float32)
    tasks = tasks_of(group_sizes, x.shape[0])
    return _call(f'rows_{transpose:d}', out, x, w, tasks)


def outer(
    x: Float[Array, 'A M'], y: Float[Array, 'A N'], group_sizes: Int[Array, 'E']
) -> Float[Array, 'E M N']:
    """Sums `x[a]^T y[a]` over the rows of each group.

    Args:
      x: rows sorted by group, float32.
      y: as many rows, float32.
      group_sizes: rows of each group, int32.

    Returns:
      The sums, float32; zero for a group without rows.
    """
    groups = _groups(group_sizes, x.shape[0])
    shape = (group_sizes.shape[0], x.shape[1], y.shape[1])
    return _call(
        'outer', jax.ShapeDtypeStruct(shape, jnp.float32), x, y, groups
    )


def gated(
    x: Float[Array, 'A D'],
    up: Float[Array, 'E D F'],
    gate: Float[Array, 'E D F'],
    down: Float[Array, 'E F N'],
    group_sizes: Int[Array, 'E'],
    activation: str,
    keep: bool,
) -> tuple[Float[Array, 'A N'], Float[Array, 'B F'], Float[Array, 'B F']]:
    """Computes `(act(x gate) * x up) down` for each group; else zero.

    Args:
      x: rows sorted by group, float32.
      up: one matrix a group, float32.
      gate: one matrix a group, float32.
      down: one matrix a group, float32.
      group_sizes: rows of each group, int32.
      activation: one of `ACTIVATIONS`.
      keep: whether both inner products are wanted: B = A, else 0. Rows past the
        last group have any numbers there.

    Returns:
      The outputs, and the products with `up` and with `gate`, float32.
    """
    rows, hidden = x.shape[0], up.shape[2]
    kept = jax.ShapeDtypeStruct((rows if keep else 0, hidden), jnp.float32)
    y = jax.ShapeDtypeStruct((rows, down.shape[2]), jnp.float32)
    tasks, chosen = tasks_of(group_sizes, rows), _chosen(activation)
    return _call('gated', (y, kept, kept), x, up, gate, down, tasks, chosen)


def gated_gradients(
    x: Float[Array, 'A D'],
    kept: tuple[Float[Array, 'A F'], Float[Array, 'A F']],
    up: Float[Array, 'E D F'],
    gate: Float[Array, 'E D F'],
    down: Float[Array, 'E F N'],
    dy: Float[Array, 'A N'],
    group_sizes: Int[Array, 'E'],
    activation: str,
) -> tuple[Array, Array, Array, Array]:
    """Returns the gradients of `x`, `up`, `gate` and `down`, see `gated`.

    Args:
      x: as there, as are all others without a line of their own.
      kept: the products of `x` with `up` and with `gate`.
      up: as there.
      gate: as there.
      down: as there.
      dy: the gradient of the outputs, float32.
      group_sizes: as there.
      activation: as there.
    """
    rows, (groups, _, hidden) = x.shape[0], up.shape
    tasks, chosen = tasks_of(group_sizes, rows), _chosen(activation)
    shape = jax.ShapeDtypeStruct((groups, hidden, dy.shape[1]), jnp.float32)
    bounds = _groups(group_sizes, rows)
    d_down = _call('gated_down', shape, *kept, chosen, dy, bounds)
    inner = jax.ShapeDtypeStruct((rows, hidden), jnp.float32)
    out = (jax.ShapeDtypeStruct(x.shape, jnp.float32), inner, inner)
    # The gradients of the inner products overwrite them: `d_down` is an
    # argument so that it is computed before.
    args = (dy, *kept, up, gate, down, tasks, chosen, d_down)
    dx, *inner = _call('gated_rows', out, *args, aliases={1: 1, 2: 2})
    d_up, d_gate = (outer(x, d, group_sizes) for d in inner)
    return dx, d_up, d_gate, d_down


def _chosen(activation):
    return jnp.full((1, 1), ACTIVATIONS.index(activation), jnp.int32)


def gather(
    x: Float[Array, 'N D'],
    index: Int[Array, 'K M'],
    weight: Float[Array, 'K M'],
) -> Float[Array, 'M D']:
    """Sums rows by index: `out[m] = sum_k weight[k, m] x[index[k, m]]`.

    Args:
      x: rows, float32.
      index: rows of each sum, int32; any other number stands for no row.
      weight: their factors, float32.

    Returns:
      The sums, float32.
    """
    out = jax.ShapeDtypeStruct((index.shape[1], x.shape[1]), jnp.float32)
    return _call('gather', out, x, index.astype(jnp.int32), weight)


def dots(
    x: Float[Array, 'M D'], y: Float[Array, 'N D'], index: Int[Array, 'M']
) -> Float[Array, 'M']:
    """Returns the products of rows `x[m] . y[index[m]]`, float32.

    Args:
      x: rows, float32.
      y: rows, float32.
      index: row of y for each of x, int32; 0 is the result for any other.
    """
    out = jax.ShapeDtypeStruct((x.shape[0], 1), jnp.float32)
    return _call('dots', out, x, y, index.astype(jnp.int32)[:, None])[:, 0]


def order(
    keys: Int[Array, 'A'], bound: int
) -> tuple[Int[Array, 'A'], Int[Array, 'S']]:
    """Sorts small whole numbers by counting; equal ones stay in their order.

    Args:
      keys: from 0 to S - 1, int32.
      bound: S.

    Returns:
      The places of the keys in rising order, and for each number below S how
      many keys are not greater, both int32.
    """
    total = keys.shape[0]
    out = jax.ShapeDtypeStruct((1, total + bound), jnp.int32)
    found = _call('order', out, keys.astype(jnp.int32)[None])[0]
    return found[:total], found[total:]


def _call(name, out, *args, aliases=None):
    call = jax.ffi.ffi_call(
        f'moe_{name}',
        out,
        vmap_method='sequential',
        input_output_aliases=aliases,
    )
    return call(*args)


def _groups(group_sizes, num_rows):
    """First row and number of rows of each group."""
    starts, ends = _bounds(group_sizes, num_rows)
    return jnp.stack([starts, ends - starts], axis=1)


def _bounds(group_sizes, num_rows):
    """First row and end of each group, never past the last row."""
    ends = jnp.cumsum(group_sizes.astype(jnp.int32))
    ends = jnp.minimum(ends, num_rows)
    return jnp.concatenate([jnp.zeros(1, jnp.int32), ends[:-1]]), ends


def tasks_of(group_sizes: Int[Array, 'E'], num_rows: int) -> Int[Array, 'T 3']:
    """Returns the tasks [T, 3] of `moe.ops.native.products`, int32.

    Each group is cut into blocks of nearly equal height; the rows past the
    last group are a group of their own.

    Args:
      group_sizes: rows of each group, int32.
      num_rows: A.
    """
    num_groups = group_sizes.shape[0]
    starts, ends = _bounds(group_sizes, num_rows)
    starts = jnp.append(starts, ends[-1])
    sizes = jnp.append(ends, num_rows) - starts
    blocks = (sizes + BLOCK_ROWS - 1) // BLOCK_ROWS
    last = jnp.cumsum(blocks)
    # As many as there can be; of a task that is not needed, 0 rows are zeroed.
    task = jnp.arange(num_rows // BLOCK_ROWS + num_groups + 1)
    group = jnp.searchsorted(last, task, side='right').astype(jnp.int32)
    found = jnp.minimum(group, num_groups)
    height = -(-sizes // jnp.maximum(blocks, 1))[found]
    block = task - (last - blocks)[found]
    row = block * height
    rows = jnp.minimum(height, sizes[found] - row)
    rows = jnp.where(group > num_groups, 0, rows)
    row = jnp.where(group > num_groups, 0, starts[found] + row)
    return jnp.stack([found, row, rows], axis=1).astype(jnp.int32)

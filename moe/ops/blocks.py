"""Grouped products as loops over blocks of rows, in plain JAX.

What they cost follows the rows and not the number of experts.
"""

import jax.numpy as jnp
from jax import lax


def block_rows(num_rows: int, num_groups: int) -> int:
    """Rows a block: a power of two near half of a balanced group.

    Fewer would multiply too little at a time, more would waste rows where a
    group ends.
    """
    wanted = max(1, num_rows // num_groups // 2)
    return min(max(1 << (wanted.bit_length() - 1), 32), 512)


def starts_of(group_sizes):
    """The first row of each group."""
    return jnp.cumsum(group_sizes) - group_sizes


def filled(x, group_sizes):
    """Which rows belong to a group, as a column."""
    return (jnp.arange(x.shape[0]) < jnp.sum(group_sizes))[:, None]


def rows_times(x, w, group_sizes, transpose):
    """Rows times w[e], or its transpose, by row blocks of each expert.

    The last block of an expert runs over into the rows of the next, which are
    written later and so end up right: no mask, no read before a write.
    """
    num_rows, num_groups = x.shape[0], w.shape[0]
    width = w.shape[1] if transpose else w.shape[2]
    block = block_rows(num_rows, num_groups)
    padded = jnp.pad(x, ((0, block), (0, 0)))
    starts = starts_of(group_sizes)
    numbers = (((1,), (1 if transpose else 0,)), ((), ()))

    def expert(e, out):
        w_e = lax.dynamic_index_in_dim(w, e, keepdims=False)

        def step(i, out):
            row = starts[e] + i * block
            rows = lax.dynamic_slice_in_dim(padded, row, block)
            y = lax.dot_general(
                rows, w_e, numbers, preferred_element_type=jnp.float32
            )
            return lax.dynamic_update_slice_in_dim(
                out, y.astype(out.dtype), row, 0
            )

        num_blocks = (group_sizes[e] + block - 1) // block
        return lax.fori_loop(0, num_blocks, step, out)

    # The padded row count is where the last block may run over to.
    out = jnp.zeros((num_rows + block, width), x.dtype)
    out = lax.fori_loop(0, num_groups, expert, out)[:num_rows]
    return jnp.where(filled(x, group_sizes), out, 0)


def outer(x, dy, group_sizes):
    """`sum_a x[a] dy[a]^T` of each expert over its row blocks, written once.

    Summed in float32, in the dtype of `x`.
    """
    num_rows, num_groups = x.shape[0], group_sizes.shape[0]
    block = block_rows(num_rows, num_groups)
    x_padded = jnp.pad(x, ((0, block), (0, 0)))
    dy_padded = jnp.pad(dy, ((0, block), (0, 0)))
    starts = starts_of(group_sizes)

    def expert(e, out):
        def step(i, total):
            row = starts[e] + i * block
            mine = jnp.arange(block) < group_sizes[e] - i * block
            a = lax.dynamic_slice_in_dim(x_padded, row, block)
            b = lax.dynamic_slice_in_dim(dy_padded, row, block)
            # Both sides: an infinite row of the next expert times 0 is NaN.
            a = jnp.where(mine[:, None], a, 0)
            b = jnp.where(mine[:, None], b, 0)
            return total + lax.dot_general(
                a,
                b,
                (((0,), (0,)), ((), ())),
                preferred_element_type=jnp.float32,
            )

        num_blocks = (group_sizes[e] + block - 1) // block
        zero = jnp.zeros((x.shape[1], dy.shape[1]), jnp.float32)
        total = lax.fori_loop(0, num_blocks, step, zero)
        total = total.astype(out.dtype)
        return lax.dynamic_update_index_in_dim(out, total, e, 0)

    shape = (num_groups, x.shape[1], dy.shape[1])
    return lax.fori_loop(0, num_groups, expert, jnp.zeros(shape, x.dtype))

"""Grouped products on any GPU, of groups padded to whole blocks of rows.

A rows, E groups, D and F the two widths.
"""

import jax.numpy as jnp
from jax import lax

from moe.ops.blocks import block_rows, starts_of

# Numbers of the matrices that are copied for the blocks multiplied at a time.
_AT_ONCE = 2**26


def rows_times(x, w, group_sizes, transpose: bool):
    """Rows times w[e], or its transpose; empty rows give zero.

    Blocks start with a group and are multiplied several at a time in one
    batched product, each with a copy of its matrix: a single block would leave
    most of a GPU idle. Only blocks that have rows are multiplied, at most
    `A / block + E`, whatever the sizes of the groups. A matrix is read and
    copied once a block, so the traffic is `(A / block + E) D F`, of which no
    more than _AT_ONCE numbers are held.
    """
    num_rows, num_groups = x.shape[0], w.shape[0]
    width = w.shape[1] if transpose else w.shape[2]
    block = block_rows(num_rows, num_groups)
    most = num_rows // block + num_groups
    at_once = min(most, max(1, _AT_ONCE // (w.shape[1] * w.shape[2])))
    counts = (group_sizes + block - 1) // block
    last = jnp.cumsum(counts)
    starts = starts_of(group_sizes)
    numbers = (((2,), (2 if transpose else 1,)), ((0,), (0,)))

    def step(i, out):
        index = i * at_once + jnp.arange(at_once)
        # Past the last block: a group without rows left.
        group = jnp.searchsorted(last, index, side='right')
        group = jnp.minimum(group, num_groups - 1)
        place = (index - (last - counts)[group]) * block
        place = place[:, None] + jnp.arange(block)
        row = starts[group][:, None] + place
        y = lax.dot_general(
            x.at[row].get(mode='clip'),
            w[group],
            numbers,
            preferred_element_type=jnp.float32,
        )
        mine = (place < group_sizes[group][:, None]).ravel()
        # Past the end, each to a place of its own, are those that are dropped.
        spare = num_rows + jnp.arange(mine.size)
        return out.at[jnp.where(mine, row.ravel(), spare)].set(
            y.astype(out.dtype).reshape(-1, width),
            mode='drop',
            unique_indices=True,
        )

    out = jnp.zeros((num_rows, width), x.dtype)
    if not num_rows:
        return out
    return lax.fori_loop(0, (last[-1] + at_once - 1) // at_once, step, out)

"""Rows from every device to every other: exactly those that have to move.

n devices of a mesh axis, A rows of a device, R rows of a device's receive
buffer, E experts, `E / n` of them on each device, D width. The counts of all
devices are known to all: where a row comes from and goes to follows from them.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from moe.ops import dispatch_rows


def through_owners(
    experts: Callable,
    rows: Float[Array, 'A D'],
    sizes: Int[Array, 'E'],
    axis_name: str,
    buffer_size: int,
) -> Float[Array, 'A F']:
    """Sends rows to the devices of their experts, and the outputs back.

    Args:
      experts: this device's `E / n`, called with the rows of all devices for
        them, sorted by expert, and their sizes.
      rows: sorted by expert, float; those past the last expert's stay.
      sizes: rows of each expert, int32.
      axis_name: of the n devices.
      buffer_size: R; no device is sent more, see `rows_that_fit`.

    Returns:
      The experts' outputs in the order of `rows`, 0 for rows that stayed.
    """
    counts = all_counts(sizes, axis_name)
    own = counts[:, lax.axis_index(axis_name)]  # [from, own expert]
    between = jnp.sum(counts, axis=-1)
    by_source, by_expert = (
        regrouping(own, buffer_size),
        regrouping(own.T, buffer_size),
    )
    arrived = move(rows, between, axis_name, buffer_size)
    arrived = dispatch_rows(arrived, by_expert, by_source[None])
    out = experts(arrived, jnp.sum(own, axis=0))
    out = dispatch_rows(out, by_source, by_expert[None])
    return move(out, between.T, axis_name, len(rows))


def all_counts(sizes: Int[Array, 'E'], axis_name: str) -> Int[Array, 'n n E/n']:
    """Rows from each device to each expert of each device, int32."""
    devices = lax.axis_size(axis_name)
    counts = lax.all_gather(sizes, axis_name)
    return counts.reshape(devices, devices, -1)


def rows_that_fit(
    counts: Int[Array, 'n n L'], buffer_size: int
) -> Int[Array, 'n n L']:
    """Returns how many of the rows the receive buffers hold.

    A device takes rows by source, then expert, until its buffer is full. What
    a sender loses is the sum of `counts - rows_that_fit(counts)` over its row,
    what a receiver turns away that over its column.

    Args:
      counts: rows from each device to each of the L experts of each device.
      buffer_size: R.

    Returns:
      The rows that are sent, int32, the first of each.

    >>> counts = jnp.array([[[2, 1], [0, 0]], [[1, 3], [4, 0]]])
    >>> rows_that_fit(counts, 5).tolist()
    [[[2, 1], [0, 0]], [[1, 1], [4, 0]]]
    """
    to = jnp.moveaxis(counts, 1, 0)
    flat = to.reshape(len(to), -1)
    kept = jnp.clip(buffer_size - _starts(flat, 1), 0, flat)
    return jnp.moveaxis(kept.reshape(to.shape), 0, 1)


def offsets(
    sizes: Int[Array, 'n n'],
) -> tuple[Int[Array, 'n n'], Int[Array, 'n n']]:
    """Where the rows from each device to each lie on both.

    Args:
      sizes: rows from each device (first axis) to each.

    Returns:
      Their first row among those of the sender, who sorts by receiver, and
      among those of the receiver, who sorts by sender.

    >>> source, target = offsets(jnp.array([[1, 2], [3, 4]]))
    >>> source.tolist(), target.tolist()
    ([[0, 1], [0, 3]], [[0, 0], [1, 2]])
    """
    return _starts(sizes, 1), _starts(sizes, 0)


def move(
    rows: Float[Array, 'A D'],
    sizes: Int[Array, 'n n'],
    axis_name: str,
    buffer_size: int,
) -> Float[Array, 'R D']:
    """Each device's rows, sorted by receiver, to the receivers.

    Where the platform that the program is lowered for has it by the native
    ragged all-to-all; on CPU by a dense one of as many rows as could be, with
    the same result. The gradient goes the same way back.

    Args:
      rows: float.
      sizes: rows from each device (first axis) to each, int32; the same on
        all devices.
      axis_name: of the n devices.
      buffer_size: R, at least what any device receives.

    Returns:
      The rows for this device, sorted by sender, then zeros.
    """
    return _move(rows, sizes, axis_name, (len(rows), buffer_size))


def regrouping(counts: Int[Array, 'N M'], buffer_size: int) -> Int[Array, 'R']:
    """Where rows sorted by (n, m) are when sorted by (m, n).

    Args:
      counts: rows of each (n, m), int32.
      buffer_size: R, at least their sum.

    Returns:
      The place of each row, int32; R for rows past the last. With the counts
      transposed it is the inverse.

    >>> regrouping(jnp.array([[1, 2], [1, 0]]), 5).tolist()
    [0, 2, 3, 1, 5]
    """
    row = jnp.arange(buffer_size, dtype=jnp.int32)
    flat = counts.reshape(-1)
    segment = jnp.searchsorted(jnp.cumsum(flat), row, side='right')
    there = _starts(counts.T.reshape(-1), 0).reshape(counts.T.shape).T
    shift = there.reshape(-1) - _starts(flat, 0)
    shift = jnp.take(shift, segment, mode='clip')
    return jnp.where(row < jnp.sum(flat), row + shift, buffer_size)


def _starts(sizes, axis):
    return jnp.cumsum(sizes, axis) - sizes


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _move(rows, sizes, axis_name, lengths):
    """`lengths` are of the rows on both ends, A and R."""
    options = {'axis_name': axis_name, 'lengths': lengths}
    return lax.platform_dependent(
        rows,
        sizes,
        cpu=functools.partial(_dense, **options),
        default=functools.partial(_ragged, **options),
    )


_move.defvjp(
    lambda rows, sizes, *options: (_move(rows, sizes, *options), sizes),
    lambda axis_name, lengths, sizes, d: (
        _move(d, sizes.T, axis_name, lengths[::-1]),
        None,
    ),
)


def _ragged(rows, sizes, *, axis_name, lengths):
    me = lax.axis_index(axis_name)
    source, target = offsets(sizes)
    buffer = jnp.zeros((lengths[1], rows.shape[1]), rows.dtype)
    return lax.ragged_all_to_all(
        rows,
        buffer,
        source[me],
        sizes[me],
        target[me],
        sizes[:, me],
        axis_name=axis_name,
    )


def _dense(rows, sizes, *, axis_name, lengths):
    """Blocks [n, most, D] of which the first rows of each are filled."""
    me = lax.axis_index(axis_name)
    source, target = offsets(sizes)
    most = min(lengths)
    step = jnp.arange(most, dtype=jnp.int32)
    mine = step < sizes[me][:, None]
    blocks = _take(rows, jnp.where(mine, source[me][:, None] + step, len(rows)))
    blocks = lax.all_to_all(blocks, axis_name, 0, 0, tiled=True)
    row = jnp.arange(lengths[1], dtype=jnp.int32)
    sender = jnp.searchsorted(jnp.cumsum(sizes[:, me]), row, side='right')
    shift = jnp.arange(len(sizes), dtype=jnp.int32) * most - target[:, me]
    place = row + jnp.take(shift, sender, mode='clip')
    place = jnp.where(sender < len(sizes), place, len(sizes) * most)
    return _take(blocks.reshape(-1, rows.shape[1]), place)


def _take(rows, index):
    return jnp.take(rows, index, axis=0, mode='fill', fill_value=0)

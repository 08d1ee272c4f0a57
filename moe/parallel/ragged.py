"""Ragged communication: sends the routed rows from each device to each.

n devices of a mesh axis, A rows of a device, R rows of a device's receive
buffer, E experts, `E / n` of them on each device, D width. Every device knows
the counts of all, from which the source and target of each row follow.
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
      rows: rows sorted by expert, float; those past the last expert's are not
        sent.
      sizes: number of rows of each expert, int32.
      axis_name: mesh axis of the n devices.
      buffer_size: R; no device is sent more, see `rows_within_buffer`.

    Returns:
      The experts' outputs in the order of `rows`, 0 for rows not sent.
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
    """Returns the rows from each device to each expert of each device.

    Args:
      sizes: rows of each expert on this device, int32.
      axis_name: mesh axis of the n devices.
    """
    devices = lax.axis_size(axis_name)
    counts = lax.all_gather(sizes, axis_name)
    return counts.reshape(devices, devices, -1)


def rows_within_buffer(
    counts: Int[Array, 'n n L'], buffer_size: int
) -> Int[Array, 'n n L']:
    """Returns how many of the rows the receive buffers hold.

    A device receives rows by sender, then expert, until its buffer is full.

    Args:
      counts: rows from each device to each of the L experts of each device.
      buffer_size: R.

    Returns:
      The number of rows that are sent, the first of each sender and expert.

    >>> counts = jnp.array([[[2, 1], [0, 0]], [[1, 3], [4, 0]]])
    >>> rows_within_buffer(counts, 5).tolist()
    [[[2, 1], [0, 0]], [[1, 1], [4, 0]]]
    """
    to = jnp.moveaxis(counts, 1, 0)
    flat = to.reshape(len(to), -1)
    sent = jnp.clip(buffer_size - _starts(flat, 1), 0, flat)
    return jnp.moveaxis(sent.reshape(to.shape), 0, 1)


def offsets(
    sizes: Int[Array, 'n n'],
) -> tuple[Int[Array, 'n n'], Int[Array, 'n n']]:
    """Returns the offsets of the rows from each device to each, on both.

    Args:
      sizes: rows from each device (first axis) to each.

    Returns:
      The first row on the sender, where rows are sorted by receiver, and on
      the receiver, where they are sorted by sender.

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
    """Sends each device's rows, sorted by receiver, to the receivers.

    By the native ragged all-to-all; when lowered for CPU, which has none, by a
    dense one padded to the largest possible size, with the same result. The
    gradient takes the same way back.

    Args:
      rows: rows of this device, float.
      sizes: rows from each device (first axis) to each, int32; the same on
        all devices.
      axis_name: mesh axis of the n devices.
      buffer_size: R, at least the rows that any device receives.

    Returns:
      The rows for this device, sorted by sender, then zeros.
    """
    return _move(rows, sizes, axis_name, (len(rows), buffer_size))


def regrouping(counts: Int[Array, 'N M'], buffer_size: int) -> Int[Array, 'R']:
    """Returns the place that rows sorted by (n, m) have when sorted by (m, n).

    Args:
      counts: number of rows of each (n, m), int32.
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
    target = _starts(counts.T.reshape(-1), 0).reshape(counts.T.shape).T
    shift = target.reshape(-1) - _starts(flat, 0)
    shift = jnp.take(shift, segment, mode='clip')
    return jnp.where(row < jnp.sum(flat), row + shift, buffer_size)


def _starts(sizes, axis):
    return jnp.cumsum(sizes, axis) - sizes


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _move(rows, sizes, axis_name, lengths):
    """`lengths` are A and R, the number of rows before and after."""
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
    """By blocks [n, most, D], of which only the first rows are filled."""
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

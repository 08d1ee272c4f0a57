"""Exchanges: experts split over devices, and tokens that come to them.

An exchange turns an executor for experts that are all here into one for
experts that are split over the n devices of a mesh axis, `E / n` on each. It
is called inside `shard_map` (or `pmap`), on each device with the tokens that
live there, whole groups, and with its own experts. Values and gradients are
those of one device with all tokens and all experts.

Experts that are split over two axes have two exchanges, one inside the other:
`all_to_all(all_to_all(execute, 'expert'), 'replica')` brings rows along
`expert` first, to the device there with the place of their expert's, then from
it along `replica`. Over slow links between m hosts of n devices each device
then has m - 1 messages to send, and not n (m - 1), of as many bytes together.

G groups of this device, S tokens a group, E experts, C slots, A rows, D width.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from moe.config import ConfigError
from moe.dispatch import (
    Dispatcher,
    grouped_plan,
    kept,
    only_experts,
)
from moe.parallel.mesh import BATCH_AXES, RULES, num_shards
from moe.parallel.ragged import all_counts, fit, through_owners
from moe.types import Routing

ExchangeName = Literal['none', 'all_to_all', 'ragged', 'gather']


def none(execute: Dispatcher, axis_name: str) -> Dispatcher:
    """The executor as it is: every device has all experts."""
    return execute


def all_to_all(execute: Dispatcher, axis_name: str) -> Dispatcher:
    """Buffers of all slots, empty ones too, travel to the experts and back.

    Each device sends `(n - 1) / n` of its [E, G*C, D] each way, whatever the
    load. Source: GShard, arXiv 2006.16668.

    Args:
      execute: a padded executor, 'onehot' or 'indexed'.
      axis_name: the mesh axis of the experts.

    Returns:
      The executor over all devices.
    """
    swap = functools.partial(lax.all_to_all, axis_name=axis_name, tiled=True)

    def run(x, routing, experts, slots):
        def there_and_back(rows, sizes=None):
            if sizes is not None:
                raise ValueError('all_to_all: needs a padded executor')
            rows = swap(rows, split_axis=0, concat_axis=1)
            return swap(experts(rows), split_axis=1, concat_axis=0)

        return execute(x, routing, there_and_back, slots)

    return run


def ragged(
    execute: Dispatcher, axis_name: str, room: float | None = None
) -> Dispatcher:
    """Exactly the routed rows travel, after how many there are.

    See `moe.parallel.ragged`. A device can be sent every row that there is, so
    that dropping nothing takes memory for `n * A` rows; with less room, what
    does not fit is dropped as if it had found no slot.

    Args:
      execute: the executor 'grouped'.
      axis_name: the mesh axis of the experts.
      room: rows that a device can receive, over the A that it is sent if all
        are sent as many; None drops nothing.

    Returns:
      The executor over all devices.
    """

    def run(x, routing, experts, slots):
        def there_and_back(rows, sizes=None):
            if sizes is None:
                raise ValueError("ragged: needs the executor 'grouped'")
            most = _most(len(rows), axis_name, room)
            return through_owners(experts, rows, sizes, axis_name, most)

        if room is not None:
            most = _most(routing.live.size, axis_name, room)
            live = _fitting(routing, slots, axis_name, most)
            routing, slots = routing._replace(live=live), None
        return execute(x, routing, there_and_back, slots)

    return run


def gather(execute: Dispatcher, axis_name: str) -> Dispatcher:
    """Experts get the tokens of all devices, and sum what they make of them.

    Each device receives the `(n - 1) G S` tokens of the others and sends as
    many partial outputs, whatever K is and wherever they are routed.

    Args:
      execute: any executor.
      axis_name: the mesh axis of the experts.

    Returns:
      The executor over all devices.
    """
    everyones = functools.partial(
        lax.all_gather, axis_name=axis_name, tiled=True
    )

    def run(x, routing, experts, slots):
        count = routing.num_experts // lax.axis_size(axis_name)
        first = lax.axis_index(axis_name) * count
        own = only_experts(jax.tree.map(everyones, routing), first, count)
        y, _ = execute(everyones(x), own, experts, slots)
        y = lax.psum_scatter(y, axis_name, tiled=True)
        return y, kept(routing, slots)

    return run


def _most(rows: int, axis_name: str, room: float | None) -> int:
    """Rows that a device can receive if every one has so many to send."""
    all_rows = rows * lax.axis_size(axis_name)
    return all_rows if room is None else min(math.ceil(room * rows), all_rows)


def _fitting(
    routing: Routing, slots: int | None, axis_name: Any, room: int
) -> Bool[Array, 'G N M']:
    """The assignments that have a slot, and room where their expert is."""
    plan = grouped_plan(routing, slots)
    counts = all_counts(plan.sizes, axis_name)
    fits = fit(counts, room)[lax.axis_index(axis_name)].reshape(-1)
    row = jnp.arange(len(plan.assignment))
    end = jnp.cumsum(plan.sizes)
    expert = jnp.searchsorted(end, row, side='right')
    last: Int[Array, 'E'] = end - plan.sizes + fits
    inside = row < jnp.take(last, expert, mode='fill', fill_value=0)
    empty = jnp.zeros((routing.live.size,), bool)
    live = empty.at[plan.assignment].set(inside, mode='drop')
    return live.reshape(routing.live.shape)


def by_device(
    counts: Float[Array, 'G E'],
) -> tuple[Float[Array, 'n'], Float[Array, 'n']]:
    """Counts of assignments by the devices that send and receive them.

    Args:
      counts: of each group of all devices, to each expert of all.

    Returns:
      Sums by where along the mesh axis `expert` the group is, and by where the
      expert is.
    """
    mesh = jax.sharding.get_abstract_mesh()
    devices = num_shards(mesh, ('expert',))
    device = (
        jnp.arange(len(counts)) * num_shards(mesh, BATCH_AXES) // len(counts)
    )
    # Of the axes that groups are over, `expert` is the innermost.
    sent = jnp.sum(counts, axis=1)
    received = jnp.sum(counts, axis=0).reshape(devices, -1)
    return (
        jax.ops.segment_sum(sent, device % devices, devices),
        jnp.sum(received, axis=1),
    )


def over_devices(
    run: Callable, expert_axes: tuple[str, ...] = RULES['expert']
) -> Callable:
    """Runs a function on every device, with whole groups and its experts.

    Args:
      run: of parameters whose first axis is experts, and of any arrays whose
        first axis is groups, e.g. an exchanged executor.
      expert_axes: mesh axes that experts are split over.

    Returns:
      The same function of global arrays, on the mesh in context: groups are
      split over all axes that a batch is split over. The axis `tensor` is left
      to the compiler.

    Raises:
      ConfigError: if the groups do not divide over the devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(axis for axis in BATCH_AXES if axis in mesh.axis_names)
    devices = num_shards(mesh, axes)

    def split(parameters, *arrays):
        groups = len(jax.tree.leaves(arrays)[0])
        if groups % devices:
            allowed = (
                f'a multiple of the {devices} devices that groups are over'
            )
            raise ConfigError('num_groups', groups, allowed)
        return jax.shard_map(
            run,
            in_specs=(P(expert_axes), *(P(axes) for _ in arrays)),
            out_specs=P(axes),
            axis_names=set(axes),
            check_vma=False,
        )(parameters, *arrays)

    return split


Exchange = Callable[..., Dispatcher]

EXCHANGES: dict[str, Exchange] = {
    'none': none,
    'all_to_all': all_to_all,
    'ragged': ragged,
    'gather': gather,
}

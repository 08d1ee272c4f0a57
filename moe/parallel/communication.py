"""Expert-parallel communication: tokens travel to experts on other devices.

A communication turns a dispatcher for local experts into one for experts that
are split over the n devices of a mesh axis, `E / n` on each. It is called
inside `shard_map` (or `pmap`) on each device, with the whole groups of tokens
and the experts of that device. Values and gradients are those of one device
with all tokens and all experts.

Experts may be split over two axes (hierarchical all-to-all): rows travel along
the first axis to the device with the coordinate of their expert's, and from
there along the second. Over slow links between m hosts of n devices each
device then sends m - 1 messages instead of n (m - 1), of as many bytes in all.

G groups of this device, S tokens a group, E experts, C capacity, A rows, D
width.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from moe.config import (
    AtLeast,
    ConfigError,
    PositiveInt,
    Registry,
    options,
)
from moe.dispatch import (
    Dispatcher,
    grouped_plan,
    only_experts,
    within_capacity,
)
from moe.parallel.mesh import BATCH_AXES, EXPERT_AXES, RULES, num_shards
from moe.parallel.ragged import all_counts, rows_within_buffer, through_owners
from moe.types import Routing

# From a dispatcher, the names of the mesh axes that experts are split over, and
# the communication's options, to the dispatcher over all devices of these axes.
Communication = Callable[..., Dispatcher]

COMMUNICATION = Registry('communication')

Axes = str | Sequence[str]


def communication_of(choice: Communication | str) -> Communication:
    """Returns the communication of a name; any other value as it is.

    Args:
      choice: a name, or an entry of `COMMUNICATION`, perhaps with options.

    Raises:
      ConfigError: for a name that is not registered.
    """
    return COMMUNICATION.find(choice, 'communication')


def expert_axes_of(choice: Communication | str) -> tuple[str, ...]:
    """Returns the mesh axes that experts are split over, the fast one first.

    Their number is the communication's option `levels`; without it, one.

    Args:
      choice: a name, or an entry of `COMMUNICATION`, perhaps with options.
    """
    levels = options(communication_of(choice)).get('levels', 1)
    return EXPERT_AXES[:levels]


@COMMUNICATION.register('none')
def none(dispatcher: Dispatcher, axis_names: Axes) -> Dispatcher:
    """Returns the dispatcher itself; the compiler inserts communication."""
    return dispatcher


@COMMUNICATION.register('all_to_all')
def all_to_all(
    dispatcher: Dispatcher,
    axis_names: Axes,
    *,
    levels: Literal[1, 2] = 1,
    overlap_degree: PositiveInt = 1,
) -> Dispatcher:
    """Sends whole capacity buffers to the experts and back.

    Each device sends `(n - 1) / n` of its [E, G*C, D] each way, whatever the
    load. Source: GShard, arXiv 2006.16668; of the overlap, Tutel, arXiv
    2206.03382.

    Args:
      dispatcher: a dispatcher with capacity buffers, 'onehot' or 'indexed'.
      axis_names: the mesh axes of the experts.
      levels: number of mesh axes; 2 is a hierarchical all-to-all, over
        `replica` too.
      overlap_degree: number of parts of the buffers that travel one after
        another, so that one part's exchange overlaps with the experts of the
        others; each part reads the experts' weights again.

    Returns:
      The dispatcher over all devices.
    """
    first, *others = _axes(axis_names)[:levels]
    dispatcher = _all_to_all(dispatcher, first, overlap_degree)
    return functools.reduce(_all_to_all, others, dispatcher)


def _all_to_all(
    dispatcher: Dispatcher, axis_name: str, parts: int = 1
) -> Dispatcher:
    swap = functools.partial(lax.all_to_all, axis_name=axis_name, tiled=True)

    def run(x, routing, experts, capacity):
        def on_owners(rows, sizes=None):
            if sizes is not None:
                raise ValueError(
                    "all_to_all: needs capacity buffers, 'onehot' or 'indexed'"
                )

            def there_and_back(rows):
                rows = swap(rows, split_axis=0, concat_axis=1)
                return swap(experts(rows), split_axis=1, concat_axis=0)

            # The groups' rows, so that capacity is what it is in one part.
            some = jnp.array_split(rows, min(parts, rows.shape[1]), axis=1)
            return jnp.concatenate([*map(there_and_back, some)], axis=1)

        return dispatcher(x, routing, on_owners, capacity)

    return run


@COMMUNICATION.register('ragged')
def ragged(
    dispatcher: Dispatcher,
    axis_names: Axes,
    *,
    levels: Literal[1, 2] = 1,
    buffer_factor: Annotated[float, AtLeast(1.0)] | None = None,
) -> Dispatcher:
    """Sends exactly the routed rows, after gathering their counts.

    See `moe.parallel.ragged`. A device may receive all rows of all devices, so
    that dropping nothing takes memory for `n * A` rows; a smaller receive
    buffer drops rows beyond it, like rows beyond capacity.

    Args:
      dispatcher: the dispatcher with sorted rows, 'grouped'.
      axis_names: the mesh axes of the experts.
      levels: number of mesh axes; 2 is hierarchical, over `replica` too.
      buffer_factor: size of each device's receive buffer as a multiple of the
        balanced load, A rows (2 is twice that load); None drops nothing. Which
        rows are dropped depends on the mesh.

    Returns:
      The dispatcher over all devices.

    Raises:
      ConfigError: for a receive buffer of two levels.
    """
    if buffer_factor is not None and levels > 1:
        allowed = 'None with communication of two levels'
        raise ConfigError('buffer_factor', buffer_factor, allowed)
    one = functools.partial(_ragged, buffer_factor=buffer_factor)
    return functools.reduce(one, _axes(axis_names)[:levels], dispatcher)


def _ragged(
    dispatcher: Dispatcher, axis_name: str, buffer_factor: float | None
) -> Dispatcher:
    def run(x, routing, experts, capacity):
        def on_owners(rows, sizes=None):
            if sizes is None:
                raise ValueError("ragged: needs sorted rows, 'grouped'")
            size = _buffer_size(len(rows), axis_name, buffer_factor)
            return through_owners(experts, rows, sizes, axis_name, size)

        if buffer_factor is not None:
            size = _buffer_size(routing.valid.size, axis_name, buffer_factor)
            valid = _within_buffer(routing, capacity, axis_name, size)
            routing, capacity = routing.replace(valid=valid), None
        return dispatcher(x, routing, on_owners, capacity)

    return run


@COMMUNICATION.register('gather')
def gather(dispatcher: Dispatcher, axis_names: Axes) -> Dispatcher:
    """Gathers all tokens on all devices, and sums the experts' outputs.

    Each device receives the `(n - 1) G S` tokens of the others and sends as
    many partial outputs, whatever K and the routing are.

    Args:
      dispatcher: any dispatcher.
      axis_names: the mesh axes of the experts.

    Returns:
      The dispatcher over all devices.
    """
    axes = _axes(axis_names)
    gathered = functools.partial(lax.all_gather, axis_name=axes, tiled=True)
    summed = functools.partial(lax.psum_scatter, axis_name=axes, tiled=True)

    def run(x, routing, experts, capacity):
        count = routing.num_experts // lax.axis_size(axes)
        first = lax.axis_index(axes) * count
        own = only_experts(jax.tree.map(gathered, routing), first, count)
        tokens = _float32_on_cpu(gathered, x)
        y, _ = dispatcher(tokens, own, experts, capacity)
        return _float32_on_cpu(summed, y), within_capacity(routing, capacity)

    return run


def _at_least_float32(x: Array) -> Array:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _float32_on_cpu(collective: Callable, x: Float[Array, '...']) -> Array:
    """Runs a collective in float32 on CPU.

    Sums of bfloat16, in the gradient of a gather too, abort XLA's CPU compiler.
    """
    return lax.platform_dependent(
        x,
        cpu=lambda x: collective(x.astype(jnp.float32)).astype(x.dtype),
        default=collective,
    )


def _axes(axis_names: Axes) -> tuple[str, ...]:
    return (axis_names,) if isinstance(axis_names, str) else tuple(axis_names)


def _buffer_size(rows: int, axis_name: str, buffer_factor: float | None) -> int:
    """Returns the rows of a receive buffer if each device sends `rows`."""
    all_rows = rows * lax.axis_size(axis_name)
    if buffer_factor is None:
        return all_rows
    return min(math.ceil(buffer_factor * rows), all_rows)


def _within_buffer(
    routing: Routing, capacity: int | None, axis_name: Any, size: int
) -> Bool[Array, 'G N M']:
    """Returns the assignments within capacity and within receive buffers."""
    plan = grouped_plan(routing, capacity)
    counts = all_counts(plan.sizes, axis_name)
    sent = rows_within_buffer(counts, size)
    own = sent[lax.axis_index(axis_name)].reshape(-1)
    row = jnp.arange(len(plan.assignment))
    end = jnp.cumsum(plan.sizes)
    expert = jnp.searchsorted(end, row, side='right')
    last: Int[Array, 'E'] = end - plan.sizes + own
    inside = row < jnp.take(last, expert, mode='fill', fill_value=0)
    empty = jnp.zeros((routing.valid.size,), bool)
    valid = empty.at[plan.assignment].set(inside, mode='drop')
    return valid.reshape(routing.valid.shape)


def by_device(
    counts: Float[Array, 'G E'],
) -> tuple[Float[Array, 'n'], Float[Array, 'n']]:
    """Sums counts of assignments by the devices that send and receive them.

    Args:
      counts: number of assignments of each group to each expert, of all
        devices.

    Returns:
      Sums by the group's coordinate on the mesh axis `expert`, and by the
      expert's.
    """
    mesh = jax.sharding.get_abstract_mesh()
    devices = num_shards(mesh, ('expert',))
    groups, shares = len(counts), num_shards(mesh, BATCH_AXES)
    device = jnp.arange(groups) * shares // groups
    # Of the axes that split groups, `expert` is the innermost.
    sent = jnp.sum(counts, axis=1)
    received = jnp.sum(counts, axis=0).reshape(devices, -1)
    return (
        jax.ops.segment_sum(sent, device % devices, devices),
        jnp.sum(received, axis=1),
    )


def on_expert_devices(
    run: Callable, expert_axes: tuple[str, ...] = RULES['expert']
) -> Callable:
    """Runs a function on each device, on its groups of tokens and experts.

    Args:
      run: a function of parameters, whose first axis is experts, and of arrays,
        whose first axis is groups, such as a dispatcher with communication.
      expert_axes: mesh axes that experts are split over.

    Returns:
      The same function of global arrays, on the mesh in context: groups are
      split over all axes that a batch is split over. The axis `tensor` is left
      to the compiler. Gradients of parameters are summed over devices in
      float32, whatever their dtype: sums of bfloat16 lose digits, and abort
      XLA's CPU compiler.

    Raises:
      ConfigError: if the groups do not divide over the devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(axis for axis in BATCH_AXES if axis in mesh.axis_names)
    devices = num_shards(mesh, axes)
    # Kernels for TPUs want every axis mapped, also those of one device.
    mapped = {axis for axis in mesh.axis_names if mesh.shape[axis] == 1}

    def split(parameters, *arrays):
        groups = len(jax.tree.leaves(arrays)[0])
        if groups % devices:
            allowed = (
                f'a multiple of the {devices} devices that groups are over, '
                'each with whole groups'
            )
            raise ConfigError('num_groups', groups, allowed)
        dtypes = jax.tree.map(jnp.result_type, parameters)

        def narrowed(parameters, *arrays):
            return run(
                jax.tree.map(lax.convert_element_type, parameters, dtypes),
                *arrays,
            )

        return jax.shard_map(
            narrowed,
            in_specs=(P(expert_axes), *(P(axes) for _ in arrays)),
            out_specs=P(axes),
            axis_names=mapped | set(axes),
            check_vma=False,
        )(jax.tree.map(_at_least_float32, parameters), *arrays)

    return split

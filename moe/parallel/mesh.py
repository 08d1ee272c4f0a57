"""The device mesh, and the sharding of parameters and batches."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import jax
from jax import lax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Shaped

from moe.config import AtLeast, ConfigError, PositiveInt
from moe.parameters import Parameter

AXES = ('replica', 'data', 'fsdp', 'expert', 'tensor')
BATCH_AXES = ('replica', 'data', 'fsdp', 'expert')

# Axis of a parameter, as `moe.parameters.Parameter` names it -> mesh axes that
# it is split over. Other axes are not split.
RULES: dict[str | None, tuple[str, ...]] = {
    'embed': ('fsdp',),
    'heads': ('tensor',),
    'hidden': ('tensor',),
    'expert': ('expert',),
}
# Mesh axes that experts are split over, by level, the fast links first: rows
# that went along them are then in order for the slow ones.
EXPERT_AXES = ('expert', 'replica')

AxisSize = Annotated[int, AtLeast(-1)]


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The number of devices along each axis of the mesh.

    Attributes:
      replica: slices or hosts that hold whole copies of the parameters.
      data: data parallelism; -1 takes all remaining devices.
      fsdp: data parallelism with sharded parameters.
      expert: expert parallelism.
      tensor: tensor parallelism, of hidden widths and heads.
    """

    replica: PositiveInt = 1
    data: AxisSize = -1
    fsdp: PositiveInt = 1
    expert: PositiveInt = 1
    tensor: PositiveInt = 1

    def __post_init__(self):
        if self.data == 0:
            raise ConfigError('data', self.data, '-1 or at least 1')


def mesh_shape(config: MeshConfig, count: int) -> dict[str, int]:
    """Returns the sizes of the axes, none of them -1.

    Args:
      config: sizes of the axes.
      count: number of devices.

    Returns:
      Size by axis, in order.

    Raises:
      ConfigError: if the sizes do not fit the number of devices.
    """
    sizes = {axis: getattr(config, axis) for axis in AXES}
    fixed = math.prod(s for s in sizes.values() if s != -1)
    if count % fixed or (-1 not in sizes.values() and fixed != count):
        raise ConfigError(
            'config.mesh',
            sizes,
            f'sizes whose product is the number of devices ({count})',
        )
    return {a: count // fixed if s == -1 else s for a, s in sizes.items()}


def compiler_options(mesh: Mesh) -> dict[str, str]:
    """Returns options of the compiler for programs on a mesh.

    On TPU an all-to-all is only overlapped with compute if the compiler is
    told to make it asynchronous. Source: MaxText,
    benchmarks/xla_flags_library.py.

    Args:
      mesh: the device mesh.
    """
    if mesh.devices.flat[0].platform != 'tpu':
        return {}
    return {'xla_tpu_enable_async_all_to_all': 'true'}


def make_mesh(
    config: MeshConfig, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Makes the mesh of the devices.

    A dimension of the TPU torus may be split among axes. Slices, which no torus
    joins, are laid along `replica`.

    Args:
      config: sizes of the axes.
      devices: the devices; None for all.

    Returns:
      The mesh, all axes Auto.

    Raises:
      ConfigError: if the sizes do not fit the number of devices, or of slices.
    """
    devices = jax.devices() if devices is None else devices
    replica, *others = mesh_shape(config, len(devices)).values()
    slices = len({getattr(device, 'slice_index', 0) for device in devices})
    if devices[0].platform != 'tpu' or slices == 1:
        grid = mesh_utils.create_device_mesh(
            (replica, *others), devices, allow_split_physical_axes=True
        )
    elif replica % slices:
        allowed = f'a multiple of the number of slices ({slices})'
        raise ConfigError('config.mesh.replica', replica, allowed)
    else:
        grid = mesh_utils.create_hybrid_device_mesh(
            (replica // slices, *others),
            (slices, *(1 for _ in others)),
            devices,
            allow_split_physical_axes=True,
        )
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def num_shards(mesh: Mesh | AbstractMesh, axes: Iterable[str]) -> int:
    """Returns the number of parts that mesh axes split an array into.

    Args:
      mesh: the device mesh.
      axes: names of mesh axes; one that the mesh does not have counts as 1.
    """
    return math.prod(mesh.shape.get(axis, 1) for axis in axes)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns a sharding of the leading axis over all data-parallel axes."""
    return NamedSharding(mesh, P(BATCH_AXES))


def global_batch(sharding: NamedSharding, batch: Any) -> Any:
    """Makes the arrays of a batch, of which this host has a part of the rows.

    Args:
      sharding: that of `batch_sharding`.
      batch: a tree of this host's rows, NumPy.
    """
    make = jax.make_array_from_process_local_data
    return jax.tree.map(lambda rows: make(sharding, rows), batch)


def host_of(mesh: Mesh) -> tuple[int, int]:
    """Returns which share of a batch's rows this process loads.

    Processes whose devices differ along `tensor` alone load the same rows.

    Args:
      mesh: the device mesh.

    Returns:
      The index of the share, and the number of shares.

    Raises:
      ConfigError: if processes share some of their rows, but not all.
    """
    rows = batch_sharding(mesh).devices_indices_map((mesh.size,))
    starts: dict[int, set[int]] = {}
    for device in mesh.devices.flat:
        (part,) = rows[device]
        starts.setdefault(device.process_index, set()).add(part.start or 0)
    shares = sorted({tuple(sorted(own)) for own in starts.values()})
    disjoint = len(set().union(*shares)) == sum(map(len, shares))
    if not disjoint or len({len(share) for share in shares}) > 1:
        allowed = 'sizes by which processes have all their rows or none alike'
        raise ConfigError('config.mesh', dict(mesh.shape), allowed)
    own = tuple(sorted(starts[jax.process_index()]))
    return shares.index(own), len(shares)


def split_batch(x: Shaped[Array, 'B ...']) -> Shaped[Array, 'B ...']:
    """Constrains the leading axis of activations to the batch's sharding.

    The compiler derives the sharding of activations from both parameters and
    batch; where these disagree it may replicate the batch, which costs every
    device the memory and arithmetic of all. The values are unchanged.

    Args:
      x: activations, rows of the batch first.

    Returns:
      x, constrained if there is a mesh with automatic axes whose data-parallel
      ones divide B.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not set(BATCH_AXES) <= set(mesh.auto_axes):
        return x
    if (devices := num_shards(mesh, BATCH_AXES)) == 1 or x.shape[0] % devices:
        return x
    return lax.with_sharding_constraint(x, P(BATCH_AXES))


def with_shardings(shapes: Any, shardings: Any) -> Any:
    """Returns shapes with shardings, to compile or restore without arrays.

    Args:
      shapes: a tree of anything with a shape and a dtype.
      shardings: the same tree of shardings.

    Returns:
      The same tree of `jax.ShapeDtypeStruct`.
    """
    return jax.tree.map(
        lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p),
        shapes,
        shardings,
    )


def over_heads(attend: Callable) -> Callable:
    """Runs attention on each device, on its own sequences and heads.

    Args:
      attend: a function of queries [B, S, H, h], keys and values [B, S, N, h],
        and perhaps of segments [B, S] and of sinks [H].

    Returns:
      The same function of global arrays, on the mesh in context: B is sharded
      like the batch, heads over `tensor` if that divides N.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return attend

    def split(query, key, value, segments=None, sinks=None):
        tensor = key.shape[2] % mesh.shape['tensor'] == 0
        spec = P(BATCH_AXES, None, 'tensor' if tensor else None)
        rows, own = P(BATCH_AXES, None), P('tensor' if tensor else None)
        run = jax.shard_map(
            attend,
            in_specs=(spec, spec, spec, rows, own),
            out_specs=spec,
            check_vma=False,
        )
        return run(query, key, value, segments, sinks)

    return split


def replicated(tree: Any) -> Any:
    """Replicates arrays on every device of the mesh, so every process has them.

    The values are unchanged.

    Args:
      tree: a tree of arrays, inside `jax.jit`.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return lax.with_sharding_constraint(tree, P())


def parameter_shardings(
    mesh: Mesh,
    tree: Any,
    parameters: Any,
    expert_axes: tuple[str, ...] = RULES['expert'],
) -> Any:
    """Returns the sharding of each array of a model and its optimizer.

    Args:
      mesh: the device mesh.
      tree: arrays or shapes: the parameters, and leaves whose path ends in a
        parameter's names and which have its shape, or all but one of its axes,
        such as the moments of an optimizer and factored ones. All other leaves
        are replicated.
      parameters: the declared parameters, see `moe.parameters.declared`.
      expert_axes: mesh axes that experts are split over.

    Returns:
      The same tree of shardings. A dimension that its mesh axes do not divide
      is not split.
    """
    rules = RULES | {'expert': expert_axes}
    known = {
        _names(path): parameter
        for path, parameter in jax.tree_util.tree_leaves_with_path(parameters)
    }

    def place(path, leaf):
        names = _names(path)
        tails = (known.get(names[i:]) for i in range(len(names)))
        found = next((p for p in tails if p is not None), None)
        axes = () if found is None else _axes(found, tuple(leaf.shape))
        if len(axes) != leaf.ndim:
            return NamedSharding(mesh, P())
        split = [rules.get(name, ()) for name in axes]
        sized = zip(split, leaf.shape, strict=True)
        spec = [a if n % num_shards(mesh, a) == 0 else None for a, n in sized]
        return NamedSharding(mesh, P(*spec))

    return jax.tree_util.tree_map_with_path(place, tree)


def _axes(
    parameter: Parameter, shape: tuple[int, ...]
) -> tuple[str | None, ...]:
    """Returns the axes of an array that has a parameter's, or all but one."""
    if shape == parameter.shape:
        return parameter.axes
    for i in reversed(range(len(parameter.shape))):
        without = lambda axes, i=i: (*axes[:i], *axes[i + 1 :])
        if shape == without(parameter.shape):
            return without(parameter.axes)
    return ()


def _names(path) -> tuple[str, ...]:
    """Returns the dictionary keys on a leaf's path."""
    keys = [getattr(key, 'key', None) for key in path]
    return tuple(key for key in keys if isinstance(key, str))

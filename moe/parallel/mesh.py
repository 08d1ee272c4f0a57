"""The device mesh, and where parameters and batches live on it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated, Any

import jax
from jax import lax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Shaped

from moe.config import AtLeast, ConfigError, PositiveInt

AXES = ('replica', 'data', 'fsdp', 'expert', 'tensor')
BATCH_AXES = ('replica', 'data', 'fsdp', 'expert')

# Parameter name -> logical axes of its last dimensions; before them stands
# 'expert' for a parameter of `experts`. Leading ones (the scan over layers)
# and unlisted parameters are not split.
PARAMETER_AXES = {
    'query': ('embed', 'heads', None),
    'key': ('embed', 'heads', None),
    'value': ('embed', 'heads', None),
    'out': ('heads', None, 'embed'),
    'up': ('embed', 'hidden'),
    'gate': ('embed', 'hidden'),
    'down': ('hidden', 'embed'),
    'embedding': (None, 'embed'),
    'head': ('embed', None),
}

# Logical axis -> mesh axis.
RULES = {
    'embed': 'fsdp',
    'heads': 'tensor',
    'hidden': 'tensor',
    'expert': 'expert',
    None: None,
}

AxisSize = Annotated[int, AtLeast(-1)]


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; -1 for one axis takes what is left."""

    replica: PositiveInt
    data: AxisSize
    fsdp: PositiveInt
    expert: PositiveInt
    tensor: PositiveInt

    def __post_init__(self):
        if self.data == 0:
            raise ConfigError('data', self.data, '-1 or at least 1')


def mesh_shape(config: MeshConfig, count: int) -> dict[str, int]:
    """Sizes of the axes, with what is left for -1.

    Args:
      config: sizes of the axes.
      count: devices.

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


def make_mesh(
    config: MeshConfig, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Lays the devices out as the config says.

    A dimension of the machines' torus may be split among axes. Slices of TPUs,
    which no torus joins, are laid along `replica`.

    Args:
      config: sizes of the axes.
      devices: all of them; None for those there are.

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


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Splits the leading axis of a batch over all data-parallel axes."""
    return NamedSharding(mesh, P(BATCH_AXES))


def split_batch(x: Shaped[Array, 'B ...']) -> Shaped[Array, 'B ...']:
    """Keeps the leading axis of activations split as the batch is.

    The compiler chooses where intermediate values live from the parameters
    and the batch together; where the parameters' split disagrees with the
    batch's it may replicate the batch, which costs every device the memory and
    the arithmetic of all. To the values this is the identity.

    Args:
      x: activations, rows of the batch first.

    Returns:
      x; pinned if there is a mesh with automatic axes whose data-parallel ones
      divide B.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not set(BATCH_AXES) <= set(mesh.auto_axes):
        return x
    ways = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if ways == 1 or x.shape[0] % ways:
        return x
    return lax.with_sharding_constraint(x, P(BATCH_AXES))


def parameter_shardings(mesh: Mesh, tree: Any) -> Any:
    """Where each leaf of a tree of parameters lives.

    Works for optimizer states too: their leaves carry the same names.

    Args:
      mesh: the device mesh.
      tree: arrays or shapes; the last string key on a leaf's path names it.

    Returns:
      The same tree of shardings. A dimension that its mesh axis does not
      divide is not split.
    """

    def place(path, leaf):
        keys = [k.key for k in path if isinstance(getattr(k, 'key', 0), str)]
        logical = PARAMETER_AXES.get(keys[-1] if keys else '', ())
        if logical and 'experts' in keys:
            logical = ('expert', *logical)
        # Factored moments have fewer dimensions than their parameter.
        axes = [RULES[name] for name in logical]
        if leaf.ndim < len(axes):
            axes = []
        axes = [*(leaf.ndim - len(axes)) * [None], *axes]
        sized = zip(axes, leaf.shape, strict=True)
        spec = [a if a and n % mesh.shape[a] == 0 else None for a, n in sized]
        return NamedSharding(mesh, P(*spec))

    return jax.tree_util.tree_map_with_path(place, tree)

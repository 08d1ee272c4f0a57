"""Which GPUs a program is traced for."""

import re

import jax
from jax.extend import backend

from moe.ops.meshes import is_whole

# Names of cards of compute capability 9.0, as their driver gives them.
_HOPPER = re.compile(r'\bG?H(20|100|200|800)\b')


def hopper_cores(x: jax.Array) -> int | None:
    """The multiprocessors of a GPU, if the program is for Hopper.

    The devices are those of the mesh in context, else of the array's mesh, also
    if they are only described and not here; else the default device. Kernels
    are taken only where each device has its part by itself, outside any mesh or
    with all axes of more than one device mapped by hand: the compiler cannot
    split them.

    Args:
      x: an array, as it is traced.

    Returns:
      The number, None for other devices, and where kernels cannot be taken.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        mesh = jax.typeof(x).sharding.mesh
    if not is_whole(mesh):
        return None
    device = None if mesh.empty else mesh.abstract_device
    if device is not None:
        cores = device.num_cores
    else:
        device = backend.get_default_device()
        cores = getattr(device, 'core_count', None)
    hopper = device.platform == 'gpu' and _HOPPER.search(device.device_kind)
    return cores if hopper else None

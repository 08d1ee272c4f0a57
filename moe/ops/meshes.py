"""What a mesh says of the program that is traced on it."""

import jax
from jax.sharding import AbstractMesh


def is_whole(mesh: AbstractMesh) -> bool:
    """Returns whether each device has its part of the arrays by itself.

    So it is outside any mesh, and with all axes of more than one device mapped
    by `shard_map`. The compiler cannot split kernels along the others.

    Args:
      mesh: the mesh in context, as it is traced.
    """
    split = set(mesh.axis_names) - set(mesh.manual_axes)
    return all(mesh.shape[axis] == 1 for axis in split)


def platform(mesh: AbstractMesh) -> str:
    """Returns the platform that a program is traced for, such as 'cpu'.

    It is that of the mesh's devices, which a plan for others may only describe,
    and JAX's default outside any mesh.

    Args:
      mesh: the mesh in context, as it is traced.
    """
    device = mesh.abstract_device
    return jax.default_backend() if device is None else device.platform

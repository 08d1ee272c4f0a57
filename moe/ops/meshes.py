"""Which meshes kernels can be taken on."""

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

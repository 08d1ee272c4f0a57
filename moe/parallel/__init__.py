"""Devices: the mesh and what is split over it."""

from moe.parallel.mesh import (
    MeshConfig,
    batch_sharding,
    make_mesh,
    mesh_shape,
    parameter_shardings,
    split_batch,
)

__all__ = [
    'MeshConfig',
    'batch_sharding',
    'make_mesh',
    'mesh_shape',
    'parameter_shardings',
    'split_batch',
]

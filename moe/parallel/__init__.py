"""Devices: the mesh, what is split over it, what travels across it."""

from moe.parallel.communication import (
    COMMUNICATION,
    Communication,
    all_to_all,
    by_device,
    communication_of,
    expert_axes_of,
    gather,
    none,
    on_expert_devices,
    ragged,
)
from moe.parallel.mesh import (
    MeshConfig,
    batch_sharding,
    host_of,
    make_mesh,
    mesh_shape,
    over_heads,
    parameter_shardings,
    replicated,
    split_batch,
    with_shardings,
)

__all__ = [
    'COMMUNICATION',
    'Communication',
    'MeshConfig',
    'all_to_all',
    'batch_sharding',
    'by_device',
    'communication_of',
    'expert_axes_of',
    'gather',
    'host_of',
    'make_mesh',
    'mesh_shape',
    'none',
    'on_expert_devices',
    'over_heads',
    'parameter_shardings',
    'ragged',
    'replicated',
    'split_batch',
    'with_shardings',
]

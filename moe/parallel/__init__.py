"""Devices: the mesh, what is split over it, what travels across it."""

from moe.parallel.collectives import Collective, collectives
from moe.parallel.exchange import (
    EXCHANGES,
    ExchangeName,
    all_to_all,
    by_device,
    gather,
    over_devices,
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
    'EXCHANGES',
    'Collective',
    'ExchangeName',
    'MeshConfig',
    'all_to_all',
    'batch_sharding',
    'by_device',
    'collectives',
    'gather',
    'host_of',
    'make_mesh',
    'mesh_shape',
    'over_devices',
    'over_heads',
    'parameter_shardings',
    'ragged',
    'replicated',
    'split_batch',
    'with_shardings',
]

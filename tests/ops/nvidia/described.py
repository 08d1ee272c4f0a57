"""Meshes of cards that are described by their name."""

from jax.sharding import AbstractDevice, AbstractMesh, AxisType


def mesh_of(kind='NVIDIA H100 80GB HBM3', cores=132, **axes):
    """A mesh of such cards with automatic axes, by default of one."""
    axes = axes or {'data': 1}
    return AbstractMesh(
        tuple(axes.values()),
        tuple(axes),
        (AxisType.Auto,) * len(axes),
        abstract_device=AbstractDevice(kind, cores, platform='gpu'),
    )

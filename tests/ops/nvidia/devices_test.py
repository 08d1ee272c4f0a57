"""The GPUs that a program is traced for, described and not here."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from moe.ops.nvidia.devices import hopper_cores
from tests.ops.nvidia.described import mesh_of


def found(mesh, manual=()):
    """What a function sees that is traced on a mesh."""
    seen = []

    def run(x):
        seen.append(hopper_cores(x))
        return x

    inner = run
    if manual:
        inner = jax.shard_map(
            run, in_specs=P(), out_specs=P(), axis_names=set(manual)
        )
    with jax.sharding.use_abstract_mesh(mesh):
        jax.eval_shape(inner, jnp.zeros(4))
    return seen[0]


@pytest.mark.parametrize(
    ('kind', 'cores'),
    [
        ('NVIDIA H100 80GB HBM3', 132),
        ('NVIDIA H100 PCIe', 114),
        ('NVIDIA H200', 132),
        ('NVIDIA GH200 480GB', 132),
        ('NVIDIA H20', 78),
    ],
)
def test_hopper(kind, cores):
    assert found(mesh_of(kind, cores)) == cores


@pytest.mark.parametrize(
    'kind', ['NVIDIA A100-SXM4-80GB', 'NVIDIA B200', 'NVIDIA GB200', 'Tesla T4']
)
def test_other_cards(kind):
    assert found(mesh_of(kind, 108)) is None


def test_other_platforms():
    assert hopper_cores(jnp.zeros(4)) is None  # the default device, a CPU
    device = AbstractDevice('TPU H100', 1, platform='tpu')
    mesh = AbstractMesh((1,), ('data',), (AxisType.Auto,))
    assert found(mesh.update(abstract_device=device)) is None


def test_not_where_the_compiler_splits():
    # 'data' of 2 devices has to be mapped by hand, 'tensor' of 1 need not.
    assert found(mesh_of(data=2, tensor=1)) is None
    assert found(mesh_of(data=2, tensor=1), manual=['data']) == 132
    assert found(mesh_of(data=2, tensor=2), manual=['data']) is None


def test_the_mesh_of_an_array_if_none_is_in_context():
    sharding = jax.sharding.NamedSharding(mesh_of('NVIDIA H200', 132), P())
    x = jax.ShapeDtypeStruct((4,), jnp.float32, sharding=sharding)
    seen = []
    jax.eval_shape(lambda x: seen.append(hopper_cores(x)), x)
    assert seen == [132]

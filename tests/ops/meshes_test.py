"""Kernels are taken where no axis is left to the compiler."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from moe.ops.meshes import is_whole, platform


def test_outside_any_mesh():
    mesh = jax.sharding.get_abstract_mesh()
    assert is_whole(mesh)
    assert platform(mesh) == 'cpu'  # as tests/conftest.py has it


def test_platform_of_described_devices():
    device = jax.sharding.AbstractDevice('TPU v5', 1, 'tpu')
    mesh = jax.sharding.AbstractMesh((1,), ('data',), abstract_device=device)
    assert platform(mesh) == 'tpu'


@pytest.mark.parametrize(
    ('data', 'tensor', 'mapped', 'whole'),
    [
        (1, 1, set(), True),
        (4, 1, set(), False),
        (4, 1, {'data'}, True),
        (2, 2, {'data'}, False),
        (2, 2, {'data', 'tensor'}, True),
    ],
)
def test_on_a_mesh(data, tensor, mapped, whole):
    mesh = jax.make_mesh((data, tensor), ('data', 'tensor'))
    found = []

    def body(x):
        found.append(is_whole(jax.sharding.get_abstract_mesh()))
        return x

    with jax.set_mesh(mesh):
        if mapped:
            body = jax.shard_map(
                body, in_specs=P(), out_specs=P(), axis_names=mapped
            )
        jax.jit(body).trace(jnp.ones(4))
    assert set(found) == {whole}

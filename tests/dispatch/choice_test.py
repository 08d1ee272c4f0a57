"""The dispatcher that is chosen where none is named."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from moe.dispatch import choose, grouped, indexed
from moe.experts import MLP, Lifted
from moe.ops import native
from moe.routing import top_k
from moe.types import Context

# Two groups of 8 tokens with 2 choices are 32 assignments to 4 experts.
MODULE = MLP(hidden=3, num_experts=4)
# C -> padded rows for an assignment.
SHARES = {3: 0.75, 4: 1.0, 5: 1.25, 6: 1.5, 7: 1.75, None: 2.0}


@pytest.fixture(scope='module')
def routing():
    position = jnp.arange(16).reshape(2, 8)
    context = Context(jnp.ones((2, 8), bool), position)
    return top_k(jnp.zeros((2, 8, 4)), context, k=2)


def chosen(routing, experts=MODULE):
    """The capacities for which the buffers of `indexed` are chosen."""
    found = {c: choose(routing, experts, c) for c in SHARES}
    assert set(found.values()) <= {grouped, indexed}
    return [c for c, dispatcher in found.items() if dispatcher is indexed]


def test_with_the_kernels_there_are_rarely_buffers(routing):
    assert chosen(routing) == [3]


def test_without_them_a_few_empty_rows_are_cheaper(monkeypatch, routing):
    monkeypatch.setattr(native, 'takes', lambda *_: False)
    assert chosen(routing) == [3, 4, 5, 6]


@pytest.mark.parametrize(
    ('platform', 'capacities'), [('tpu', [3, 4, 5, 6]), ('gpu', [3, 4, 5])]
)
def test_on_another_platform(routing, platform, capacities):
    device = jax.sharding.AbstractDevice(platform, 1, platform)
    mesh = jax.sharding.AbstractMesh((1,), ('data',), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        assert chosen(routing) == capacities


def test_the_kernels_are_for_float32(routing):
    assert choose(routing, MODULE, 5, jnp.bfloat16) is indexed


def test_experts_of_buffers_alone_get_them(routing):
    assert chosen(routing, Lifted(nn.Dense(3), 4)) == list(SHARES)
    assert chosen(routing, lambda rows: rows) == list(SHARES)
    assert chosen(routing, lambda rows, sizes=None: rows) == [3]


def test_communication_needs_one_of_them(routing):
    for name, dispatcher in {'all_to_all': indexed, 'ragged': grouped}.items():
        for capacity in SHARES:
            given = (routing, MODULE, capacity, jnp.float32, name)
            assert choose(*given) is dispatcher

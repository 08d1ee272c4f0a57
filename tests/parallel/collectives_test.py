"""What is sent: lines of programs, and the bytes of each communication."""

import functools

import jax
import jax.numpy as jnp
import pytest

from moe.experts import MLP
from moe.layers import MoE
from moe.parallel import (
    COMMUNICATION,
    MeshConfig,
    batch_sharding,
    expert_axes_of,
    make_mesh,
    parameter_shardings,
    with_shardings,
)
from moe.parameters import declared
from moe.routing import top_k
from tests.parallel.collectives import Collective, collectives

pytestmark = pytest.mark.slow

LINES = [
    (
        '%all-to-all.1 = (f32[1,2,16]{2,1,0}, /*index=1*/f32[1,2,16]{2,1,0}) '
        'all-to-all(%a, %b), channel_id=1, replica_groups={{0,2},{1,3}}',
        Collective('all-to-all', 2, 2 * 32 * 4, 1),
        128,  # a half of the 256 bytes stays
    ),
    (
        '%psum = bf16[2,4]{1,0:T(8,128)} all-reduce(%x), channel_id=2, '
        'replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%add',
        Collective('all-reduce', 2, 16, 1),
        16,  # half of it there, half of it back
    ),
    (
        "%g = pred[8]{0} all-gather(%x), replica_groups=mesh['a'=4,'b'=2] "
        "{'a'}, dimensions={0}",
        Collective('all-gather', 4, 8, 1),
        6,
    ),
    (
        "%g = s8[8]{0} all-gather(%x), replica_groups=mesh['a'=4,'b'=2] "
        "{'a':(1)2, 'b'}, dimensions={0}",
        Collective('all-gather', 4, 8, 1),
        6,
    ),
    (
        '%s = (f32[2]{0}, f32[8]{0}) all-gather-start(%x), '
        'replica_groups=[1,4]<=[4], dimensions={0}\n'
        '%d = f32[8]{0} all-gather-done(%s)',
        Collective('all-gather', 4, 32, 1),
        24,
    ),
    (
        'ROOT %r = f32[3]{0} reduce-scatter(%x), replica_groups={{0,1,2,3}}, '
        'dimensions={0}, to_apply=%add',
        Collective('reduce-scatter', 4, 12, 1),
        36,  # of 48 bytes, the 36 that are for others
    ),
    (
        '%p = u32[] collective-permute(%x), source_target_pairs={{0,1},{1,0}}',
        Collective('collective-permute', 2, 4, 1),
        4,
    ),
]


@pytest.mark.parametrize(('line', 'desired', 'sent'), LINES)
def test_lines(line, desired, sent):
    assert collectives(line) == [desired]
    assert desired.sent == sent


def test_equal_ones_are_counted_and_lonely_ones_are_not():
    alone = '%y = f32[2]{0} all-reduce(%x), replica_groups={{0},{1}}'
    gather = '%z = f32[2]{0} all-gather(%x), replica_groups={{0,1}}'
    found = collectives('\n'.join([gather, alone, gather]))
    assert found == [Collective('all-gather', 2, 8, 2)]
    assert found[0].sent == 8


# 8 groups of 4 tokens on 8 devices, K = 2 of 8 experts, C = ceil(4*2*2/8) = 2.
G, S, D, F, E, K, C = 8, 4, 16, 6, 8, 2, 2


@functools.cache
def of_layer(name, dispatcher, data, expert, replica=1):
    """What the layer's program sends, forward and backward."""
    levels = {'levels': 2} if replica > 1 else {}
    layer = MoE(
        MLP(F, num_experts=E, activation='relu'),
        functools.partial(top_k, k=K),
        dispatcher=dispatcher,
        communication=functools.partial(COMMUNICATION[name], **levels),
        capacity_factor=2.0,
    )
    mesh = make_mesh(MeshConfig(replica, data, 1, expert, 1))
    x = jax.ShapeDtypeStruct(
        (G, S, D), jnp.float32, sharding=batch_sharding(mesh)
    )
    made = jax.eval_shape(layer.init, jax.random.key(0), x)
    parameters = declared(layer.init, jax.random.key(0), x)
    axes = expert_axes_of(layer.communication)
    places = parameter_shardings(mesh, made, parameters, axes)
    params = with_shardings(made, places)

    def objective(params, x):
        y, aux = layer.apply(params, x, train=True)
        return jnp.sum(y**2) + aux.losses['load_balance'], (y, aux.stats)

    gradients = jax.grad(objective, argnums=(0, 1), has_aux=True)
    with jax.set_mesh(mesh):
        text = jax.jit(gradients).lower(params, x).compile().as_text()
    return collectives(text)


def split(found):
    """All-to-alls; gradients and statistics that are summed; the rest."""
    kinds = {'all-to-all': 0, 'all-reduce': 1}
    parts = [], [], []
    for one in found:
        parts[kinds.get(one.kind, 2)].append(one)
    return parts


# The choice of experts is left to the compiler, which on CPU does not split
# `top_k` over tokens: the probabilities [G, S, E] are gathered for it.
TOP_K = Collective('all-gather', 8, 4 * G * S * E, 1)


@pytest.mark.parametrize(('data', 'expert'), [(1, 8), (2, 4)])
def test_all_to_all_sends_its_buffers_and_no_more(data, expert):
    buffers, sums, others = split(
        of_layer('all_to_all', 'indexed', data, expert)
    )
    # The buffers of the one group here, there and back, twice (backward).
    buffer = 4 * E * C * D
    assert buffers == [Collective('all-to-all', expert, buffer, 4)]
    assert buffers[0].sent == 4 * buffer * (expert - 1) // expert
    assert others == [TOP_K]
    # Neither tokens nor weights: an expert's gradients are summed over `data`,
    # the router's and small statistics over all.
    weights = 4 * (E // expert) * 2 * D * F
    router = 4 * D * E
    summed = sum(one.size for one in sums if one.devices == 8)
    assert router < summed < router + 128
    assert [one for one in sums if one.devices < 8] == (
        [Collective('all-reduce', 2, weights, 1)] if data > 1 else []
    )


def test_two_levels_send_one_message_to_each_host():
    # 2 hosts of 4 devices. The buffer goes inside (4 devices), then across (2).
    buffers, sums, others = split(
        of_layer('all_to_all', 'indexed', 1, 4, replica=2)
    )
    buffer = 4 * E * C * D
    across = Collective('all-to-all', 2, buffer, 4)
    assert buffers == [across, Collective('all-to-all', 4, buffer, 4)]
    # Of a flat one among the 8, 4 of 8 parts are for the other host, each
    # a message of its own: as many bytes in 4 messages as now in 1.
    (flat,), _, _ = split(of_layer('all_to_all', 'indexed', 1, 8))
    assert flat.size == across.size
    assert across.sent == 4 * buffer * 4 // 8
    assert others == [TOP_K]
    # No expert has a copy on the other host whose gradient it could share.
    assert {one.devices for one in sums} == {8}


def test_ragged_sends_rows_and_their_counts():
    # On CPU every pair of devices sends as many rows as could be, all S*K.
    buffers, _, others = split(of_layer('ragged', 'grouped', 2, 4))
    blocks = 4 * 4 * S * K * D
    assert buffers == [Collective('all-to-all', 4, blocks, 4)]
    counts = Collective('all-gather', 4, 4 * 4 * E, 1)
    assert others == sorted([TOP_K, counts])


def test_gather_sends_tokens_once_each_way():
    buffers, _, others = split(of_layer('gather', 'indexed', 2, 4))
    assert buffers == []
    # The tokens of 4 devices forward, as many outputs' gradients backward; the
    # weights and what expert each choice is of, and sums the other way.
    tokens, choices = 4 * 4 * S * D, 4 * 4 * S * K
    live = 4 * S * K
    gathers = [one for one in others if one.kind == 'all-gather']
    scatters = [one for one in others if one.kind == 'reduce-scatter']
    assert Collective('all-gather', 4, tokens, 2) in gathers
    assert {one.size for one in gathers if one != TOP_K} <= {
        tokens,
        choices,
        live,
    }
    assert scatters == [
        Collective('reduce-scatter', 4, choices // 4, 1),
        Collective('reduce-scatter', 4, tokens // 4, 2),
    ]

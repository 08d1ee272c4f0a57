"""Experts of every kind are split over the devices, and nothing changes."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.config import ConfigError
from moe.experts import MLP, HeterogeneousExperts, Lifted, Network
from moe.layers import HierarchicalMoE, MoE, SoftMoE
from moe.layers.multitask import MultiGate
from moe.parallel import COMMUNICATION, parameter_shardings
from moe.parameters import declared
from moe.routing import top2
from tests.parallel.communication_layer_test import (
    KEY,
    D,
    E,
    Scale,
    applied,
    build,
    check,
    mesh_of,
    problem,
    run,
)

pytestmark = pytest.mark.slow

FOUR = (1, 1, 1, 4, 1)


class Narrow(nn.Module):
    """A module of linen's own, with a norm."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(D)(nn.LayerNorm()(nn.tanh(nn.Dense(8)(x))))


def heterogeneous():
    return HeterogeneousExperts(
        (Narrow(), nn.Dense(D)) * (E // 2), block_size=8
    )


# Experts, and the communications and dispatchers that they allow.
PADDED = [('none', 'indexed'), ('all_to_all', 'onehot'), ('gather', 'indexed')]
SORTED = [('none', 'grouped'), ('ragged', 'grouped'), ('gather', 'grouped')]
KINDS = {
    'MLP': (MLP(8, num_experts=E, use_bias=True), PADDED[1:2] + SORTED),
    'lifted': (Lifted(Narrow(), E), PADDED),
    # By every communication: `communication_layer_test`.
    'own': (Scale(E), []),
    'heterogeneous': (heterogeneous(), SORTED[:1] + PADDED[:1]),
}


COMPARED = {kind: given for kind, given in KINDS.items() if given[1]}


@functools.cache
def results():
    """Of all kinds on one device and on four, in a program each."""
    alone = {
        kind: build('top_k', dispatcher, 'none', None, experts)
        for kind, (experts, [(_, dispatcher), *_]) in COMPARED.items()
    }
    many = {
        f'{kind} {name} {dispatcher}': build(
            'top_k', dispatcher, name, None, experts
        )
        for kind, (experts, allowed) in COMPARED.items()
        for name, dispatcher in allowed
    }
    one = run(alone, (1, 1, 1, 1, 1), ['empty'])
    return one, run(many, FOUR, ['empty'])


@pytest.mark.parametrize('kind', COMPARED)
def test_equals_one_device(kind):
    one, many = results()
    for name, dispatcher in KINDS[kind][1]:
        cell = f'{kind} {name} {dispatcher}', 'empty'
        check(many[cell], one[kind, 'empty'], cell[0])


@pytest.mark.parametrize('kind', KINDS)
def test_a_device_has_its_share(kind):
    # Every parameter of the experts, by its first axis; heterogeneous ones too,
    # whose first axis is no list of experts. Nothing of the router.
    layer = build('top_k', 'indexed', 'none', None, KINDS[kind][0])
    given, _ = problem('even')
    params = jax.eval_shape(layer.init, KEY, **given)['params']
    init = functools.partial(layer.init, **given)
    places = parameter_shardings(mesh_of(FOUR), params, declared(init, KEY))
    held = jax.tree.map(lambda s, p: p.shard_shape(s.shape), params, places)
    whole = params.pop('experts'), held.pop('experts')
    for leaf, shard in zip(
        jax.tree.leaves(whole[0]),
        jax.tree.leaves(whole[1], is_leaf=lambda x: isinstance(x, tuple)),
        strict=True,
    ):
        assert shard == (leaf.shape[0] // 4, *leaf.shape[1:])
    assert held == {'router': params['router'].shape}


def test_experts_of_other_mixtures_are_split_too():
    # A soft mixture; and two levels, whose inner experts are behind an axis.
    x = np.ones((2, 4, D), np.float32)
    soft = declared(SoftMoE(Lifted(Narrow(), E)).init, KEY, x)
    axes = {p.axes[0] for p in jax.tree.leaves(soft['experts'])}
    assert axes == {'expert'}
    assert soft['router'].axes == (None, None)
    inner = MoE(Lifted(Narrow(), 4))
    two = declared(HierarchicalMoE(inner, 2, top2).init, KEY, x)
    axes = {p.axes[:2] for p in jax.tree.leaves(two['inner']['experts'])}
    assert axes == {(None, 'expert')}
    # Of several tasks; one module for all experts, and one for each.
    for experts in (Network((3,), num=2), [Network((3,)), Network((5, 3))]):
        found = declared(MultiGate(experts, 2).init, KEY, x[0])
        gates = found.pop('gates_of_2')
        assert gates['router'].axes == (None, None, None)
        assert {p.axes[0] for p in jax.tree.leaves(found)} == {'expert'}


@pytest.mark.parametrize('name', ['all_to_all', 'ragged', 'gather'])
def test_bfloat16(name):
    # Tokens and experts in bfloat16, their sums and gradients too.
    dispatcher = 'grouped' if name == 'ragged' else 'indexed'
    experts = MLP(8, num_experts=E, activation='relu', dtype=jnp.bfloat16)
    layer = build('top_k', dispatcher, name, None, experts)
    given, dy = problem('even')
    given['x'] = jnp.asarray(given['x'], jnp.bfloat16)

    def loss(variables, x):
        y, _ = layer.apply(variables, **{**given, 'x': x})
        return jnp.sum(y.astype(jnp.float32) * dy), y

    variables = jax.jit(layer.init)(KEY, **given)
    gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    found = []
    for sizes in [(1, 1, 1, 1, 1), (1, 1, 1, 2, 1)]:
        with jax.set_mesh(mesh_of(sizes)):
            found.append(
                jax.device_get(jax.jit(gradients)(variables, given['x']))
            )
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        a, b = np.float32(a), np.float32(b)
        assert np.max(np.abs(a - b)) <= 0.02 * np.max(np.abs(b))


class Shared(nn.Module):
    """Experts with a matrix that belongs to all of them."""

    num_experts: int

    @nn.compact
    def __call__(self, rows, sizes=None):
        w = self.param('w', nn.initializers.ones_init(), (D, D))
        return rows @ w


def test_a_parameter_of_all_experts_cannot_be_split():
    layer = build('top_k', 'indexed', 'gather', None, Shared(E))
    with pytest.raises(ConfigError) as error:
        applied(layer, (1, 2, 1, 4, 1))
    assert str(error.value) == (
        f'experts.w = ({D}, {D}): must be of the {E} experts by its first '
        'axis, to be split'
    )
    # The compiler brings it where it is needed.
    layer = build('top_k', 'indexed', 'none', None, Shared(E))
    y, _ = applied(layer, (1, 2, 1, 4, 1))
    assert y.shape == (8, 4, D)


def test_a_communication_from_outside():
    # Registered like ours, with an option of its own.
    @COMMUNICATION.register('doubled_for_a_test')
    def doubled(dispatcher, axis_names, *, factor: float = 2.0):
        inner = COMMUNICATION['gather'](dispatcher, axis_names)

        def run(x, routing, experts, capacity):
            y, kept = inner(x, routing, experts, capacity)
            return factor * y, kept

        return run

    given, _ = problem('even')
    found = {}
    for name in ('gather', 'doubled_for_a_test'):
        layer = build('top_k', 'indexed', name, None)
        with jax.set_mesh(mesh_of((1, 1, 1, 2, 1))):
            variables = jax.jit(layer.init)(KEY, **given)
            found[name], _ = jax.jit(layer.apply)(variables, **given)
    np.testing.assert_allclose(
        found['doubled_for_a_test'], 2 * found['gather'], rtol=1e-6
    )

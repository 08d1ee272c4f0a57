"""The mixture layer with experts on other devices: the mesh changes nothing."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.config import ConfigError
from moe.experts import MLP, HeterogeneousExperts, ZeroComputationExperts
from moe.layers import HierarchicalMoE, MoE
from moe.parallel import (
    COMMUNICATION,
    MeshConfig,
    batch_sharding,
    expert_axes_of,
    make_mesh,
    parameter_shardings,
)
from moe.parameters import declared
from moe.routing import ROUTERS
from tests.reference.compare import assert_close
from tests.routing.common import ASSIGNING

pytestmark = pytest.mark.slow

G, S, D, E, VOCABULARY = 8, 4, 4, 8, 16
KEY = jax.random.key(5)
OPTIONS = {
    'expert_choice': {'capacity_factor': 1.5},
    'group_limited': {'k': 2, 'expert_groups': 4, 'chosen_groups': 2},
    'hash': {'k': 2, 'vocab_size': VOCABULARY},
    'relu': {'k': 2},
    'sigmoid': {'k': 2},
    'sinkhorn': {'k': 2, 'iterations': 4},
    'top_p': {'k': 2, 'p': 0.6},
}
# Devices along replica, data, fsdp, expert, tensor.
MESHES = [
    (1, 1, 1, 8, 1),
    (2, 2, 1, 2, 1),
    (1, 1, 2, 4, 1),
    (2, 1, 1, 2, 2),
    (2, 1, 1, 4, 1),
]
# Communication and its levels -> dispatchers it serves.
SERVED = {
    ('all_to_all', 1): ('indexed', 'onehot'),
    ('all_to_all', 2): ('onehot', 'indexed'),
    ('ragged', 1): ('grouped',),
    ('ragged', 2): ('grouped',),
    ('gather', 1): ('indexed', 'grouped'),
}


class Scale(nn.Module):
    """`tanh(x * w[e])`: experts that compile in no time."""

    num_experts: int

    @nn.compact
    def __call__(self, rows, sizes=None):
        normal = nn.initializers.normal(1.0)
        w = self.param('w', normal, (self.num_experts, rows.shape[-1]))
        if sizes is None:
            return jnp.tanh(rows * w[:, None])
        row = jnp.arange(len(rows))
        expert = jnp.searchsorted(jnp.cumsum(sizes), row, side='right')
        return jnp.tanh(rows * jnp.take(w, expert, axis=0, mode='clip'))


def mesh_of(sizes):
    return make_mesh(MeshConfig(*sizes), jax.devices()[: np.prod(sizes)])


def problem(scenario):
    """Tokens, their mask, ids, and what the outputs are weighed with.

    even: nothing special; empty: padding, all of groups 2 and 7 too, and no
    token wants experts 0 and 1 (of the first of four devices).
    """
    draw = np.random.default_rng(0)
    x = draw.standard_normal((G, S, D), np.float32)
    x[..., 0] = 1
    mask = np.ones((G, S), bool)
    if scenario == 'empty':
        mask = draw.random((G, S)) < 0.8
        mask[[2, 7]] = False
    ids = draw.integers(0, VOCABULARY, (G, S), np.int32)
    dy = draw.standard_normal((G, S, D), np.float32)
    return {'x': x, 'mask': mask, 'token_ids': ids}, dy


def communication_by(name, levels=1):
    options = {'levels': levels} if levels > 1 else {}
    return functools.partial(COMMUNICATION[name], **options)


def build(name, dispatcher, communication, factor, experts=None, **options):
    return MoE(
        experts or Scale(E),
        router=functools.partial(ROUTERS[name], **OPTIONS.get(name, {})),
        dispatcher=dispatcher,
        communication=communication,
        capacity_factor=factor,
        **options,
    )


def call(layer, variables, given, dy, **options):
    """Sum of all outputs and losses, each times its own; (y, aux)."""
    y, aux = layer.apply(
        variables, **given, **options, train=True, rngs={'router': KEY}
    )
    total = jnp.sum(y * dy)
    for i, loss in enumerate(sorted(aux.losses)):
        total += 0.1 * (1 + i) * aux.losses[loss]
    return total, (y, aux.losses, aux.stats)


def variables_of(shapes, scenario):
    """Random variables of the shapes that a layer has."""
    draw = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda v: 0.5 * draw.standard_normal(v.shape, np.float32), shapes
    )
    if scenario == 'empty' and 'router' in variables['params']:
        variables['params']['router'][0, :2] -= 20
    return variables


def run(layers, sizes, scenarios=('even', 'empty')):
    """Results of layers by name, all in one program, for each scenario."""
    mesh = mesh_of(sizes)

    def program(variables, given, dy):
        found = {}
        for name, layer in layers.items():
            objective = functools.partial(call, layer, dy=dy)
            x = given['x']
            rest = {k: v for k, v in given.items() if k != 'x'}
            found[name] = jax.grad(
                lambda v, x, f=objective, r=rest: f(v, given={'x': x, **r}),
                argnums=(0, 1),
                has_aux=True,
            )(variables[name], x)
        return found

    program = jax.jit(program)
    results = {}
    # All layers of a program have their experts in one place.
    (axes,) = {
        expert_axes_of(getattr(layer, 'inner', layer).communication)
        for layer in layers.values()
    }
    with jax.set_mesh(mesh):
        shapes, places = {}, {}
        for name, layer in layers.items():
            given, _ = problem('even')
            init = functools.partial(layer.init, **given)
            shapes[name] = jax.eval_shape(
                functools.partial(init, train=False), KEY
            )
            places[name] = parameter_shardings(
                mesh, shapes[name], declared(init, KEY), axes
            )
        for scenario in scenarios:
            given, dy = problem(scenario)
            variables = {
                n: variables_of(v, scenario) for n, v in shapes.items()
            }
            out = program(
                jax.device_put(variables, places),
                jax.device_put(given, batch_sharding(mesh)),
                jax.device_put(dy, batch_sharding(mesh)),
            )
            for name, value in jax.device_get(out).items():
                results[name, scenario] = value
    return results


def factor_of(i, j):
    """Cells are dropless and with C = ceil(4*K*.5/8) = 1 slot by turns."""
    return 0.5 if (i + j) % 2 else None


@functools.cache
def on_one_device(factor):
    layers = {
        name: build(name, 'indexed', 'none', factor) for name in ASSIGNING
    }
    return run(layers, (1, 1, 1, 1, 1))


def cells():
    """Every router meets every mesh and communication, and those each other.

    (mesh, communication) to its layers, by router; 13 routers on 5 meshes are
    65 cells, each run on two scenarios.
    """
    found = {}
    for i, name in enumerate(ASSIGNING):
        for j, sizes in enumerate(MESHES):
            by = list(SERVED)[(i + j) % 5]
            dispatchers = SERVED[by]
            dispatcher = dispatchers[(i + j) // 5 % len(dispatchers)]
            cell = (name, dispatcher, factor_of(i, j // 3))
            found.setdefault((sizes, by), []).append(cell)
    return found


CELLS = cells()
# One cell of each mesh and communication, with another router in turn.
FEW = {
    (sizes, by): [
        found[(MESHES.index(sizes) + list(SERVED).index(by)) % len(found)]
    ]
    for (sizes, by), found in CELLS.items()
}


def test_few_cells_cover_every_value():
    assert set(FEW) == {(sizes, by) for sizes in MESHES for by in SERVED}
    every = [(by, *cell) for (_, by), [cell] in FEW.items()]
    assert {name for _, name, _, _ in every} == set(ASSIGNING)
    served = {(by, dispatcher) for by, _, dispatcher, _ in every}
    assert served == {(x, e) for x, es in SERVED.items() for e in es}
    factors = {(by, factor) for by, _, _, factor in every}
    assert factors == {(by, factor) for by in SERVED for factor in (None, 0.5)}


def test_cells_cover_all_pairs():
    every = [
        (sizes, by, *cell)
        for (sizes, by), cells in CELLS.items()
        for cell in cells
    ]
    assert len(every) == 65
    counts = {
        0: 5,
        1: 5,
        2: 13,
        4: 2,
    }  # meshes, communications, routers, factors
    for a in counts:
        for b in counts:
            pairs = {(cell[a], cell[b]) for cell in every}
            assert a == b or len(pairs) == counts[a] * counts[b], (a, b)
    served = {(by, dispatcher) for _, by, _, dispatcher, _ in every}
    assert served == {(x, e) for x, es in SERVED.items() for e in es}
    assert {x for x, _ in SERVED} | {'none'} == set(COMMUNICATION)


@pytest.mark.parametrize('key', FEW, ids=str)
def test_equals_one_device(key):
    compare(*key, FEW[key])


@pytest.mark.long
@pytest.mark.parametrize('key', CELLS, ids=str)
def test_every_pair_equals_one_device(key):
    compare(*key, [cell for cell in CELLS[key] if cell not in FEW[key]])


def compare(sizes, by, cells):
    layers = {
        name: build(name, dispatcher, communication_by(*by), factor)
        for name, dispatcher, factor in cells
    }
    found = run(layers, sizes)
    for name, _, factor in cells:
        for scenario in ('even', 'empty'):
            desired = on_one_device(factor)[name, scenario]
            check(found[name, scenario], desired, f'{name} {scenario}')


def check(found, desired, name):
    (gradients, (y, losses, stats)) = found
    (d_gradients, (d_y, d_losses, d_stats)) = desired
    assert_close(y, d_y, 2e-6, name=name)
    assert_close(dict(losses), dict(d_losses), 5e-6, name=name)
    assert_close(dict(stats), dict(d_stats), 2e-6, name=name)
    largest = max(np.max(np.abs(g)) for g in jax.tree.leaves(d_gradients))
    assert_close(gradients, d_gradients, 5e-6, scale=largest, name=name)


def test_scenarios_are_what_they_say():
    # Drops with capacity only; experts 0 and 1 without a token.
    for name in ('top_k', 'switch'):
        for factor, low in ((None, 0.0), (0.5, 0.1)):
            for scenario in ('even', 'empty'):
                found = on_one_device(factor)[name, scenario]
                _, (_, _, stats) = found
                assert (stats['dropped'] > 0.1) == (low > 0)
                assert (stats['load'][:2].sum() == 0) == (scenario == 'empty')


def same_on(sizes, layer, scenario='empty'):
    """Compares a layer with itself on one device."""
    one = run({'top_k': layer}, (1, 1, 1, 1, 1), [scenario])
    many = run({'top_k': layer}, sizes, [scenario])
    check(many['top_k', scenario], one['top_k', scenario], str(sizes))


@pytest.mark.parametrize(
    ('name', 'dispatcher', 'changes'),
    [
        # Experts that are nobody's: they are where the tokens are.
        (
            'ragged',
            'grouped',
            {'zero_computation': ZeroComputationExperts(1, 1, 1)},
        ),
        # Priorities travel with the tokens; parameters of several shapes.
        (
            'gather',
            'indexed',
            {
                'batch_prioritized': True,
                'experts': MLP(3, num_experts=E, use_bias=True),
            },
        ),
        # Groups that are parts of rows, two a row.
        ('all_to_all', 'indexed', {'num_groups': 16}),
    ],
    ids=['zero_computation', 'prioritized', 'groups'],
)
def test_options_on_two_devices(name, dispatcher, changes):
    layer = build('top_k', dispatcher, name, 0.5, **changes)
    same_on((1, 1, 1, 2, 1), layer)


@pytest.mark.parametrize(
    ('levels', 'sizes'),
    [
        pytest.param(1, (1, 1, 1, 2, 1), marks=pytest.mark.long),
        (2, (2, 1, 1, 2, 1)),
    ],
)
def test_two_levels_of_routers(levels, sizes):
    # Each of 2 mixtures has its 4 experts on 2 devices, or 4.
    communication = communication_by('ragged', levels)
    inner = build('top_k', 'grouped', communication, 2.0, Scale(4))
    layer = HierarchicalMoE(inner, 2, ROUTERS['top2'])
    same_on(sizes, layer)


def applied(layer, sizes, groups=G):
    """One call on a mesh, without compiling."""
    x = np.ones((groups, S, D), np.float32)
    variables = jax.eval_shape(layer.init, KEY, x)
    with jax.set_mesh(mesh_of(sizes)):
        return jax.eval_shape(layer.apply, variables, x)


@pytest.mark.parametrize(
    ('layer', 'groups', 'message'),
    [
        (
            {'experts': Scale(6)},
            8,
            'num_experts = 6: must be a multiple of the 4 devices that they '
            'are over',
        ),
        (
            {},
            12,
            'num_groups = 12: must be a multiple of the 8 devices that groups '
            'are over, each with whole groups',
        ),
        (
            {'experts': HeterogeneousExperts((nn.Dense(D), nn.Dense(D)) * 2)},
            8,
            "experts = 'HeterogeneousExperts': must be experts of one kind, "
            'to be split over devices',
        ),
    ],
    ids=['experts', 'groups', 'heterogeneous'],
)
def test_what_does_not_divide(layer, groups, message):
    layer = build('top_k', 'indexed', 'gather', None, **layer)
    with pytest.raises(ConfigError) as error:
        applied(layer, (1, 2, 1, 4, 1), groups)
    assert str(error.value) == message
    # Where no experts are elsewhere, nothing has to divide.
    y, _ = applied(layer, (1, 2, 1, 1, 1), groups)
    assert y.shape == (groups, S, D)


def test_initializes_on_any_mesh():
    # Whatever the shape of the example.
    layer = build('top_k', 'indexed', 'all_to_all', None)
    x = np.ones((1, S, D), np.float32)
    desired = jax.eval_shape(layer.init, KEY, x)
    with jax.set_mesh(mesh_of((1, 1, 1, 8, 1))):
        assert jax.eval_shape(layer.init, KEY, x) == desired

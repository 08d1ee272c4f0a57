"""Mixture layers from a config: what it builds, refuses and moves."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from moe.config import ConfigError, options, parse
from moe.experts import MLP, ZeroComputationExperts
from moe.layers import (
    HierarchicalMoE,
    MoE,
    MoEConfig,
    Shared,
    SoftMoE,
)
from moe.routing import top2, update_router_state
from tests import tiny

SECTION = tiny.plain()['model']['moe'] | {
    'num_experts': 6,
    'experts': {'name': 'mlp', 'hidden': 8},
}


def config_of(**changes):
    return parse(MoEConfig, SECTION | changes)


def two_level(groups=2, router='top2'):
    """Changes that make two levels of experts."""
    return {'hierarchy': {'groups': groups, 'router': router}}


def build(**changes):
    return config_of(**changes).build(jnp.float32, 0.5)


def refusal(**changes):
    with pytest.raises(ConfigError) as error:
        config_of(**changes)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_one_level():
    layer = build(num_groups=3)
    assert isinstance(layer, MoE)
    assert layer.num_groups == 3
    assert layer.zero_computation is None
    assert isinstance(layer.experts, MLP)
    assert layer.num_experts == 6


def test_outer_experts():
    # Six experts in two groups: three each. The groups of tokens are those of
    # the outer level; inside, every group's slots are a row.
    layer = build(
        **two_level(2, {'name': 'top2', 'policy': 'all'}),
        num_groups=3,
        router={'name': 'top_k', 'k': 3},
    )
    assert isinstance(layer, HierarchicalMoE)
    assert layer.outer_experts == 2
    assert layer.num_groups == 3
    assert layer.outer_router.func is top2
    assert layer.outer_router.keywords['policy'] == 'all'
    assert layer.inner.num_groups is None
    assert layer.inner.experts.num_experts == 3
    assert layer.inner.router.keywords['k'] == 3


def test_soft():
    layer = build(router={'name': 'soft', 'capacity_factor': 1.5}, num_groups=2)
    assert isinstance(layer, SoftMoE)
    assert options(layer.router) == {'capacity_factor': 1.5}
    assert layer.num_groups == 2
    assert layer.experts.num_experts == 6
    layer = build(router={'name': 'soft'})
    assert options(layer.router) == {'capacity_factor': 1.0}


def test_zero_computation_experts():
    # They are beside the others, and the router sees them all: K = 9 of 6 + 3.
    counts = {'zero_computation': {'zero': 1, 'copy': 2}}
    router = {'name': 'top_k', 'k': 9}
    layer = build(**counts, router=router)
    assert isinstance(layer.zero_computation, ZeroComputationExperts)
    free = layer.zero_computation
    assert (free.num_zero, free.num_copy, free.num_constant) == (1, 2, 0)
    assert layer.num_experts == 9
    assert layer.experts.num_experts == 6
    message = refusal(**counts, router={'name': 'top_k', 'k': 10})
    assert message == 'config.router.k = 10: must be at most num_experts (9)'
    # Of two levels, every group has its own.
    layer = build(**counts, **two_level(), router={'name': 'top_k', 'k': 6})
    assert layer.inner.num_experts == 6


@pytest.mark.parametrize('changes', [{}, two_level()])
def test_shared(changes):
    shared = {'network': {'hidden': 5}, 'gate': 'sigmoid'}
    layer = build(shared=shared, **changes)
    assert isinstance(layer, Shared)
    assert layer.gate == 'sigmoid'
    assert (layer.shared.hidden, layer.shared.num_experts) == (5, None)
    assert layer.shared.down_scale == 0.5
    assert isinstance(layer.mixture, HierarchicalMoE if changes else MoE)


class Block(nn.Module):
    """What a layer is the attribute of."""

    moe: nn.Module

    def __call__(self, x):
        return self.moe(x, mask=None)


class Model(nn.Module):
    """Builds its layer inside, as the models do."""

    config: MoEConfig

    @nn.compact
    def __call__(self, x):
        return Block(self.config.build(jnp.float32, 1.0))(x)


@pytest.mark.parametrize(
    'changes',
    [
        {**two_level(), 'zero_computation': {'constant': 1}},
        {'router': 'soft', 'shared': {'network': {'hidden': 3}}},
    ],
)
def test_builds_inside_a_module(changes):
    x = jnp.ones((2, 5, 4))
    model = Model(config_of(**changes))
    (y, aux), variables = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), x)
    )
    assert y.shape == x.shape
    assert aux.stats['load'].shape[0] >= 6
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if 'experts' in str(path):
            lead = (2, 3) if 'hierarchy' in changes else (6,)
            assert leaf.shape[: len(lead)] == lead


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            two_level(4),
            'config.hierarchy.groups = 4: must be a divisor of num_experts (6)',
        ),
        (
            {**two_level(3), 'router': {'name': 'top_k', 'k': 3}},
            'config.router.k = 3: must be at most num_experts (2)',
        ),
        (
            two_level(2, {'name': 'top_k', 'k': 3}),
            'config.hierarchy.router.k = 3: must be at most num_experts (2)',
        ),
        (
            two_level(1),
            "config.hierarchy.router.name = 'top2': must be able to route 1 "
            'experts: top2: needs 2 experts, not 1',
        ),
        (
            {'router': {'name': 'group_limited'}},
            "config.router.name = 'group_limited': must be able to route 6 "
            'experts: group_limited: 2 of 4 groups of 6 experts cannot give '
            'k = 4',
        ),
        (
            {'router': {'name': 'replay'}},
            "config.router.name = 'replay': must be one of expert_choice, "
            'group_limited, hash, noisy_top_k, random, relu, round_robin, '
            'sigmoid, sinkhorn, soft, switch, top2, top_k, top_p',
        ),
        (
            {'router': 'soft', **two_level()},
            "config.router.name = 'soft': must be a router of assignments, for "
            'two levels or zero-computation experts',
        ),
        (
            {'router': 'soft', 'zero_computation': {'copy': 1}},
            "config.router.name = 'soft': must be a router of assignments, for "
            'two levels or zero-computation experts',
        ),
    ],
)
def test_refuses(changes, message):
    assert refusal(**changes) == message


def test_soft_is_no_outer_router():
    message = refusal(**two_level(2, 'soft'))
    assert message == (
        "config.hierarchy.router.name = 'soft': must be a router of assignments"
    )


@pytest.mark.parametrize('name', ['sigmoid', 'relu'])
def test_the_state_of_a_layer_moves_by_its_own_statistics(name):
    router = {'name': name, 'k': 2}
    config = config_of(router=router, **two_level(2, router))
    layer = config.build(jnp.float32, 1.0)
    x = jax.random.normal(jax.random.key(0), (2, 6, 4))

    def step():
        (_, aux), variables = layer.init_with_output(
            jax.random.key(1), x, train=True
        )
        state = variables['router_state']
        return state, update_router_state(state, aux.state_statistics)

    before, after = jax.eval_shape(step)
    same = functools.partial(jax.tree.map, lambda v: (v.shape, v.dtype))
    assert same(after) == same(before)
    assert sorted(before) == ['inner', 'outer']


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {'router': 'expert_choice', 'capacity': 'factor'},
            "config.capacity.name = 'factor': must be 'dropless': "
            'expert_choice has a capacity_factor of its own',
        ),
        (
            {'router': 'soft', 'capacity': 'factor'},
            "config.capacity.name = 'factor': must be 'dropless', for a soft "
            'mixture, which reads no other',
        ),
        (
            {'router': 'soft', 'jitter': 0.1},
            'config.jitter = 0.1: must be 0.0, for a soft mixture, which reads '
            'no other',
        ),
        (
            {'capacity': {'name': 'factor', 'train': None, 'eval': None}},
            'config.capacity.train = None: must be a number here or in eval '
            "(or capacity 'dropless')",
        ),
        (
            {'capacity': {'name': 'dropless', 'prioritized': True}},
            "config.capacity.prioritized = True: must be absent: 'dropless' "
            'has no such option (it is one of factor)',
        ),
        (
            {'shared_gate': 'sigmoid'},
            "config.shared_gate = 'sigmoid': must be absent: no such field "
            '(nearest: shared.gate)',
        ),
    ],
)
def test_settings_that_would_do_nothing(changes, message):
    assert refusal(**changes) == message


def test_a_loss_with_options_of_its_own():
    section = {'load_balance': {'scope': 'group'}}
    layer = build(losses=section)
    assert layer.losses['load_balance'].keywords == {'scope': 'group'}
    # Another name for the same loss, in an objective with both.
    section = {'by_group': {'name': 'load_balance', 'scope': 'group'}}
    assert list(build(losses=section).losses) == ['by_group']
    message = refusal(losses={'balance': {}})
    assert message.startswith("config.losses.balance.name = 'balance': must be")

"""What a mixture layer's options do: capacity, groups, jitter, config."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.config import ConfigError, options, parse
from moe.config.registry import entry_of
from moe.dispatch import grouped
from moe.experts import MLP
from moe.experts.activations import relu
from moe.layers import MoE, MoEConfig
from moe.parallel import ragged
from moe.routing import top_k
from moe.types import ExpertChoice
from tests.reference import layer as reference
from tests.reference import scenarios
from tests.reference.compare import assert_close

SWITCH = functools.partial(top_k, k=1)


class Identity(nn.Module):
    """Experts that return what they get."""

    num_experts: int = 4

    def __call__(self, rows, sizes=None):
        return rows


def run(layer, x, params, **options):
    """(y, aux) of one compiled call."""
    rngs = options.pop('rngs', None)
    apply = functools.partial(layer.apply, record=True, **options)
    return jax.jit(lambda x, p: apply({'params': p}, x, rngs=rngs))(x, params)


# Every token of 2 groups of S = 6 wants expert 1 of E = 5 and no other: with C
# slots, 6 - C of 6 assignments drop.
@pytest.mark.parametrize(
    ('options', 'train', 'slots'),
    [
        ({'capacity_factor': 1.0}, True, 2),  # ceil(6*1/5)
        ({'capacity_factor': 1.0}, False, 6),  # the eval factor is None
        ({'eval_capacity_factor': 2.0}, False, 3),  # ceil(6*2/5)
        ({'eval_capacity_factor': 2.0}, True, 6),
        ({'capacity_factor': 1.0, 'min_capacity': 4}, True, 4),
        ({'capacity_factor': 1.0, 'min_capacity': 9}, True, 6),  # at most S
    ],
)
def test_slots(options, train, slots):
    problem = scenarios.problem('overfull')
    layer = MoE(Identity(5), router=SWITCH, **options)
    y, aux = run(layer, problem.x, {'router': problem.router}, train=train)
    np.testing.assert_allclose(aux.stats['dropped'], (6 - slots) / 6)
    # The first C tokens of each group have slots.
    filled = np.any(np.asarray(y) != 0, axis=-1)
    assert filled.tolist() == [[s < slots for s in range(6)]] * 2


def test_tokens_that_do_not_divide_into_groups():
    layer = MoE(Identity(5), num_groups=5)
    with pytest.raises(ValueError, match=r'12 tokens do not .* num_groups = 5'):
        layer.init(jax.random.key(0), jnp.ones((3, 4, 4)))


@pytest.mark.parametrize(
    ('shape', 'num_groups', 'groups'),
    [
        ((12,), None, 1),
        ((3, 4), None, 3),
        ((3, 2, 2), None, 6),
        ((3, 4), 2, 2),  # a group may cut a row in two
        ((2, 6), 1, 1),
    ],
)
def test_groups(shape, num_groups, groups):
    # 12 tokens, some padding; C = ceil(S*1*.5/5) of S = 12/G tokens: where the
    # groups lie decides who drops.
    problem = scenarios.problem('empty')
    layer = MoE(
        MLP(scenarios.HIDDEN, num_experts=5),
        router=SWITCH,
        capacity_factor=0.5,
        num_groups=num_groups,
    )
    y, aux = run(
        layer,
        problem.x.reshape(*shape, -1),
        {'router': problem.router, 'experts': problem.experts},
        mask=problem.mask.reshape(shape),
        train=True,
    )
    args = scenarios.float64(problem)
    grid = (groups, 12 // groups)
    options = {
        'k': 1,
        'renormalize': True,
        'slots': {1: 2, 2: 1, 3: 1, 6: 1}[groups],
        'activation': 'swiglu',
        'scope': 'global',
    }
    desired = reference.layer(
        args.x.reshape(*grid, -1),
        args.router,
        args.experts,
        args.mask.reshape(grid),
        options,
    )
    assert desired.stats['dropped'] > 0
    assert y.shape == (*shape, scenarios.WIDTH)
    assert_close(y, desired.y.reshape(*shape, -1), 5e-6)
    assert_close(dict(aux.stats), desired.stats, 2e-6)
    assert aux.routing.mask.shape == grid


def test_no_mask_is_all_live_and_the_routing_comes_on_request():
    problem = scenarios.problem('even')
    layer = MoE(Identity(5))
    variables = {'params': {'router': problem.router}}
    mask = jnp.ones((2, 6), bool)
    y, aux = jax.jit(layer.apply)(variables, problem.x)
    y_masked, aux_masked = run(layer, problem.x, variables['params'], mask=mask)
    assert_close(y, y_masked, 0)
    assert aux.routing is None
    assert aux_masked.routing.mask.all()


@functools.lru_cache
def jitter_program(num_groups, train, jitter):
    """Key to (y, aux) of tokens that are 2 in every feature."""
    layer = MoE(Identity(4), SWITCH, jitter, num_groups=num_groups)
    x, variables = jnp.full((2, 6, 4), 2.0), {'params': {'router': jnp.eye(4)}}
    call = functools.partial(layer.apply, train=train, record=True)
    return jax.jit(lambda key: call(variables, x, rngs={'router': key}))


def jittered(seed=0, num_groups=None, train=True, jitter=0.25):
    """Logits that are the noise itself, 2 * U(.75, 1.25), and the outputs."""
    y, aux = jitter_program(num_groups, train, jitter)(jax.random.key(seed))
    return np.asarray(y).reshape(12, 4), np.asarray(aux.routing.logits), aux


def test_jitter_reaches_the_router_alone():
    y, logits, aux = jittered()
    assert np.all((logits >= 1.5) & (logits <= 2.5))
    assert len(np.unique(logits)) == logits.size
    # The experts see x = 2 in every feature: y is 2 * gate in every feature.
    gate = np.asarray(aux.routing.weight)[:, 0].reshape(12, 1)
    np.testing.assert_allclose(y, np.tile(2 * gate, (1, 4)), rtol=1e-6)


def test_jitter_follows_the_key_and_not_the_groups():
    logits = jittered(seed=0)[1]
    np.testing.assert_array_equal(jittered(seed=0)[1], logits)
    assert np.all(jittered(seed=1)[1] != logits)
    regrouped = jittered(seed=0, num_groups=3)[1]
    assert regrouped.shape == (3, 4, 4)
    np.testing.assert_array_equal(regrouped.reshape(logits.shape), logits)


def test_evaluation_is_without_jitter():
    assert np.all(jittered(train=False)[1] == 2.0)
    assert np.all(jittered(jitter=0.0)[1] == 2.0)


def test_jitter_without_key_is_an_error():
    layer = MoE(Identity(4), jitter=0.1)
    x, params = jnp.ones((1, 2, 4)), {'router': jnp.eye(4)}
    with pytest.raises(ValueError, match="needs an rng named 'router'"):
        layer.apply({'params': params}, x, train=True)


def test_capacity_is_not_applied_to_routers_that_place_tokens_themselves():
    # Each of 4 experts takes all 6 tokens of its group; by a capacity factor
    # of .1, ceil(6*4*.1/4) = 1 would fit. Weights 1 to 4: y = 10 x.
    def every_token_to_every_expert(logits, context):
        shape = (2, 4, 6)
        return ExpertChoice(
            weight=jnp.broadcast_to(jnp.arange(1.0, 5)[:, None], shape),
            valid=jnp.ones(shape, bool),
            probs=jax.nn.softmax(logits),
            logits=logits,
            mask=context.mask,
            token=jnp.broadcast_to(jnp.arange(6, dtype=jnp.int32), shape),
        )

    layer = MoE(
        Identity(4), router=every_token_to_every_expert, capacity_factor=0.1
    )
    x = jax.random.normal(jax.random.key(0), (2, 6, 4))
    y, aux = run(layer, x, {'router': jnp.eye(4)}, train=True)
    np.testing.assert_allclose(y, 10 * x, rtol=1e-6)
    assert aux.stats['dropped'] == 0


def test_parameters_are_float32_and_the_router_has_its_fan_in():
    layer = MoE(MLP(hidden=4, num_experts=64, dtype=jnp.bfloat16))
    x = jnp.ones((1, 2, 64), jnp.bfloat16)
    params = jax.jit(layer.init)(jax.random.key(0), x)['params']
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype('float32')}
    # 4096 draws of standard deviation 1/sqrt(64), whose own error is 1.1 %.
    np.testing.assert_allclose(np.std(params['router']), 1 / 8, rtol=0.05)


SECTION = {
    'num_experts': 4,
    'experts': {
        'name': 'mlp',
        'hidden': 8,
        'activation': 'relu',
        'use_bias': True,
    },
    'router': {'name': 'top_k', 'k': 3, 'renormalize': False},
    'jitter': 0.125,
    'dispatcher': {'name': 'grouped'},
    'communication': {'name': 'ragged', 'buffer_factor': 2.5},
    'capacity': {
        'name': 'factor',
        'train': 1.25,
        'eval': None,
        'minimum': 2,
        'rule': 'tokens',
        'prioritized': True,
    },
    'num_groups': 3,
    'losses': {'load_balance': {'name': 'load_balance', 'scope': 'group'}},
}
BUILT = {
    'jitter': 0.125,
    'capacity_factor': 1.25,
    'eval_capacity_factor': None,
    'min_capacity': 2,
    'capacity_rule': 'tokens',
    'batch_prioritized': True,
    'num_groups': 3,
}


def test_config_builds_the_layer_it_describes():
    layer = parse(MoEConfig, SECTION).build(jnp.bfloat16, 0.5)
    assert layer.router.func is top_k
    assert options(layer.router) == {
        'k': 3,
        'renormalize': False,
        'ties': 'lowest',
        'noise': 0.0,
    }
    for name, value in BUILT.items():
        assert getattr(layer, name) == value, name
    assert entry_of(layer.dispatcher) is grouped
    assert options(layer.losses['load_balance']) == {'scope': 'group'}
    assert layer.communication.func is ragged
    assert options(layer.communication) == {'levels': 1, 'buffer_factor': 2.5}
    experts = layer.experts
    assert (experts.num_experts, experts.hidden) == (4, 8)
    assert (entry_of(experts.activation), experts.use_bias) == (relu, True)
    assert (experts.dtype, experts.down_scale) == (jnp.bfloat16, 0.5)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            {'router': {'name': 'top_k', 'k': 5}},
            'config.router.k = 5: must be at most num_experts (4)',
        ),
        (
            # The router's own default, K = 2, is no less too many.
            {'num_experts': 1, 'router': {'name': 'top_k'}},
            'config.router.k = 2: must be at most num_experts (1)',
        ),
        ({'jitter': 1.0}, 'config.jitter = 1.0: must be less than 1'),
        (
            {'dispatcher': 'dense'},
            "config.dispatcher.name = 'dense': must be one of grouped, "
            'indexed, onehot',
        ),
        (
            {'communication': 'all_to_all'},
            "config.communication.name = 'all_to_all': must be 'none', "
            "'gather' or 'ragged', of grouped rows",
        ),
        (
            {'dispatcher': 'onehot', 'communication': 'ragged'},
            "config.communication.name = 'ragged': must be 'none', 'gather' or "
            "'all_to_all', of onehot rows",
        ),
        (
            {
                'router': {'name': 'soft'},
                'communication': 'gather',
                'capacity': 'dropless',
                'jitter': 0.0,
            },
            "config.communication.name = 'gather': must be 'none', for a soft "
            'mixture',
        ),
        (
            {'communication': {'name': 'gather', 'levels': 2}},
            "config.communication.levels = 2: must be absent: 'gather' has no "
            'such option (it is one of all_to_all, ragged)',
        ),
        (
            {'communication': {'name': 'none', 'levels': 2}},
            "config.communication.levels = 2: must be absent: 'none' has no "
            'such option (it is one of all_to_all, ragged)',
        ),
        (
            {'communication': {'name': 'ragged', 'levels': 3}},
            'config.communication.levels = 3: must be one of 1, 2',
        ),
        (
            {'communication': {'name': 'gather', 'buffer_factor': 2.5}},
            "config.communication.buffer_factor = 2.5: must be absent: 'gather'"
            ' has no such option (it is one of ragged)',
        ),
        (
            {
                'communication': {
                    'name': 'ragged',
                    'levels': 2,
                    'buffer_factor': 2.5,
                }
            },
            'config.communication.buffer_factor = 2.5: must be None, but at '
            'one level of communication and of routers',
        ),
        (
            {
                'hierarchy': {'groups': 2},
                'router': {'name': 'top_k', 'k': 1},
            },
            'config.communication.buffer_factor = 2.5: must be None, but at '
            'one level of communication and of routers',
        ),
        (
            {'communication': {'name': 'ragged', 'buffer_factor': 0.5}},
            'config.communication.buffer_factor = 0.5: must be at least 1.0, '
            'or None',
        ),
        (
            {'capacity': {'name': 'factor', 'train': 0}},
            'config.capacity.train = 0.0: must be greater than 0.0, or None',
        ),
        (
            {'experts': {'name': 'mlp', 'hidden': 0}},
            'config.experts.hidden = 0: must be at least 1',
        ),
    ],
)
def test_config_refuses(change, message):
    with pytest.raises(ConfigError) as error:
        parse(MoEConfig, {**SECTION, **change})
    assert str(error.value) == message

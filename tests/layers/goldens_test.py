"""The layer against recorded runs of another system's top-2 mixture.

Its layer counts slots as `max(min(S, int(S * factor / E)), least)`, without K;
its loss is E^2 times the mean over (batch, expert) of the share of first
choices times the mean probability, which is the balance loss of each row.
"""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.capacity import capacity
from moe.dispatch import DISPATCHERS, padded_plan
from moe.experts import MLP
from moe.layers import MoE
from moe.layers.auxiliary import load_balance
from moe.routing import top2
from tests.reference.compare import assert_close

FILE = pathlib.Path(__file__).parents[1] / 'goldens' / 'top2_moe.json'
CASES = ['flat_all_cf1.25', 'flat_none_cf2']
K = 2


@functools.cache
def golden(name):
    return json.loads(FILE.read_text())[name]


def their_slots(config):
    size, factor = config['seq'], config['capacity_factor']
    fair = int(size * factor / config['num_experts'])
    return max(min(size, fair), config['min_expert_capacity'])


def build(config, dispatcher):
    """The layer of a recorded config; its factor is for K = 1."""
    policy = config['second_policy']
    factor = config['capacity_factor'] / K
    return MoE(
        MLP(
            hidden=config['hidden'],
            num_experts=config['num_experts'],
            activation=config['activation'],
            use_bias=False,
        ),
        router=functools.partial(
            top2,
            policy=policy,
            eval_policy=policy,
            threshold=config['threshold'],
            eval_threshold=config['threshold'],
        ),
        dispatcher=dispatcher,
        capacity_factor=factor,
        eval_capacity_factor=factor,
        min_capacity=config['min_expert_capacity'],
        losses={'load_balance': functools.partial(load_balance, scope='group')},
    )


@functools.cache
def outputs(name, dispatcher):
    """Everything that was recorded, computed by the layer."""
    data = golden(name)
    config = data['config']
    layer = build(config, dispatcher)

    def objective(params, x):
        y, aux = layer.apply(
            {'params': params}, x, train=config['training'], record=True
        )
        loss = config['loss_coef'] * aux.losses['load_balance']
        return jnp.sum(y**2) + 100 * loss, (y, loss, aux.routing)

    run = jax.jit(jax.grad(objective, argnums=(0, 1), has_aux=True))
    numbers = functools.partial(np.array, dtype=np.float32)
    params = {
        'router': numbers(data['params']['gate.w_gating']),
        'experts': {
            'up': numbers(data['params']['experts.w1']),
            'down': numbers(data['params']['experts.w2']),
        },
    }
    gradients, rest = jax.device_get(run(params, numbers(data['x'])))
    return gradients, *rest


def combine(routing, slots):
    """Weight of each token in each slot, [B, S, E, C], from the plan."""
    plan = jax.device_get(padded_plan(routing, slots))
    num_groups, size = routing.mask.shape
    tensor = np.zeros((num_groups, size, routing.num_experts, slots))
    for row, (token, assignment) in enumerate(
        zip(plan.token, plan.assignment, strict=True)
    ):
        if token < num_groups * size:
            expert, rest = divmod(row, num_groups * slots)
            g, c = divmod(rest, slots)
            weight = routing.weight.reshape(-1)[assignment]
            tensor[g, token - g * size, expert, c] = weight
    return tensor


@pytest.mark.parametrize('name', CASES)
def test_slots_are_theirs(name):
    config = golden(name)['config']
    slots = capacity(
        config['seq'],
        config['num_experts'],
        K,
        config['capacity_factor'] / K,
        config['min_expert_capacity'],
    )
    assert slots == their_slots(config) == 4


@pytest.mark.parametrize('dispatcher', DISPATCHERS)
@pytest.mark.parametrize('name', CASES)
def test_reproduces_the_recorded_run(name, dispatcher):
    data = golden(name)
    (d_params, d_x), y, loss, routing = outputs(name, dispatcher)
    assert_close(y, np.array(data['y']), 1e-5)
    desired = np.float64(data['aux_loss_times_coef'])
    assert_close(loss, desired, 1e-5, scale=desired)
    gradients = {
        'router': np.array(data['grads']['gate.w_gating']),
        'experts': {
            'up': np.array(data['grads']['experts.w1']),
            'down': np.array(data['grads']['experts.w2']),
        },
    }
    assert_close(d_params, gradients, 1e-5)
    assert_close(d_x, np.array(data['grad_x']), 1e-5)
    tensor = combine(routing, their_slots(data['config']))
    recorded = np.array(data['combine_b_n_e_c'])
    assert_close(tensor, recorded, 1e-5)
    np.testing.assert_array_equal(tensor > 0, recorded > 0)


def test_the_recorded_runs_drop_tokens_and_second_choices():
    # What they would not show, they would not test.
    kept = {n: np.array(golden(n)['combine_b_n_e_c']) > 0 for n in CASES}
    tokens = {n: k.any((2, 3)).size for n, k in kept.items()}
    assert kept['flat_all_cf1.25'].sum() < K * tokens['flat_all_cf1.25']
    assert kept['flat_none_cf2'].sum((2, 3)).max() == 1

"""Networks that a config describes: alike, unlike, normalised, regularised."""

import math

import jax
import numpy as np
import pytest

from moe.config import ConfigError, parse, to_plain
from moe.experts import BatchNorm, Network, Networks, Renorm
from moe.workloads.multitask.networks import (
    NetworkConfig,
    Normalization,
    TowersConfig,
)
from tests import tiny
from tests.reference import multitask as reference
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow

B, D = 4, 3
X = tiny.numbers((B, D), 0)
UNLIKE = (
    {},
    {'widths': (5, 4, 2), 'activation': 'tanh'},
    {'output_activation': 'sigmoid', 'kernel_init': 'he_normal'},
)


def test_alike_networks_are_one_product():
    plain = {'widths': (4, 2), 'kernel_init': 'zeros', 'use_bias': False}
    made = parse(NetworkConfig, {**plain, 'weight_norm': 'unit'}).network(3)
    assert made == Network(
        (4, 2),
        3,
        activation=('relu', 'relu'),
        kernel_init='zeros',
        use_bias=False,
        weight_norm='unit',
        parent=None,
    )


def test_unlike_networks_equal_each_by_itself():
    config = parse(NetworkConfig, {'widths': (3, 2), 'each': UNLIKE})
    module = config.network(3)
    assert isinstance(module, Networks)
    params = tiny.parameters(module.init, X, scale=0.7)
    names = [('relu', 'relu'), ('tanh', 'tanh', 'relu'), ('relu', 'sigmoid')]
    wide = reference.wide(params)
    desired = [
        reference.network(np.float64(X), wide[f'networks_{i}'], names[i])
        for i in range(3)
    ]
    y = jax.jit(module.apply)({'params': params}, X)
    assert_close(y, np.stack(desired, axis=1), 5e-6)
    # Each may have an input of its own.
    own = np.stack([X, 2 * X, -X], axis=1)
    y = jax.jit(module.apply)({'params': params}, own)
    desired = [
        reference.network(
            np.float64(own[:, i]), wide[f'networks_{i}'], names[i]
        )
        for i in range(3)
    ]
    assert_close(y, np.stack(desired, axis=1), 5e-6)
    inits = [network.kernel_init for network in module.networks]
    assert inits == ['glorot_uniform', 'glorot_uniform', 'he_normal']


def test_what_was_said_comes_back():
    section = {
        'widths': [3, 2],
        'each': [{'widths': [4, 2]}, {'activation': 'tanh'}],
        'batch_norm': {'renorm': {'rmax': 3.0}},
        'kernel_penalty': {'l1': 0.5},
    }
    config = parse(NetworkConfig, section)
    plain = to_plain(NetworkConfig, config)
    assert parse(NetworkConfig, plain) == config
    assert plain['each'][1]['activation'] == 'tanh'
    assert config.penalties() == {
        'kernel_penalty': {'l1': 0.5, 'l2': 0.0},
        'bias_penalty': {'l1': 0.0, 'l2': 0.0},
    }


@pytest.mark.parametrize(
    ('section', 'renorm'),
    [
        ({}, None),
        ({'renorm': {}}, Renorm(0.99, math.inf, None, math.inf)),
        (
            {
                'renorm': {
                    'momentum': 0.5,
                    'rmax': 3.0,
                    'rmin': 0.1,
                    'dmax': 5.0,
                }
            },
            Renorm(0.5, 3.0, 0.1, 5.0),
        ),
    ],
)
def test_batch_norm(section, renorm):
    config = parse(Normalization, {'momentum': 0.5, 'epsilon': 0.1, **section})
    made = config.maker()(parent=None)
    assert made == BatchNorm(0.5, 0.1, renorm, parent=None)


def test_towers_of_a_task():
    alike = parse(TowersConfig, {'widths': (4,)}).build(2, 3)
    assert alike == Network((4, 3), 2, activation='relu', parent=None)
    each = ({'widths': ()}, {'widths': (5,), 'activation': 'tanh'})
    towers = parse(TowersConfig, {'each': each}).build(2, 3)
    x = tiny.numbers((B, 2, D), 1)
    params = tiny.parameters(towers.init, x)
    shapes = {
        f'{name}/{layer}': dense['kernel'].shape
        for name, network in params.items()
        for layer, dense in network.items()
    }
    assert shapes == {
        'networks_0/dense_0': (D, 3),
        'networks_1/dense_0': (D, 5),
        'networks_1/dense_1': (5, 3),
    }
    wide = reference.wide(params)
    desired = [
        reference.network(
            np.float64(x[:, i]), wide[f'networks_{i}'], ('tanh', 'linear')[-n:]
        )
        for i, n in enumerate((1, 2))
    ]
    y = jax.jit(towers.apply)({'params': params}, x)
    assert_close(y, np.stack(desired, axis=1), 5e-6)


@pytest.mark.parametrize(
    ('section', 'field'),
    [
        ({'widths': ()}, 'config.widths'),
        ({'each': ({'widths': (3,)},)}, 'config.each[0].widths'),
        ({'each': ({}, {'widths': ()})}, 'config.each[1].widths'),
        ({'each': ({'use_bias': False},)}, 'config.each[0].use_bias'),
        ({'each': ({'activation': 'rulu'},)}, 'config.each[0].activation'),
        ({'batch_norm': {'renorm_momentum': 0.9}}, 'config.batch_norm.renorm_'),
        ({'renorm': {}}, 'config.renorm'),
    ],
)
def test_refused(section, field):
    with pytest.raises(ConfigError) as caught:
        parse(NetworkConfig, section)
    assert caught.value.field.startswith(field)


@pytest.mark.parametrize('num', [None, 2])
def test_as_many_changes_as_networks(num):
    config = parse(NetworkConfig, {'each': UNLIKE[::2] * 2})
    with pytest.raises(ConfigError, match=r'each of the . networks') as caught:
        config.network(num)
    assert caught.value.field == 'config.model.expert.each'
    with pytest.raises(ConfigError, match='each of 2 tasks'):
        parse(TowersConfig, {'each': ({},)}).build(2, 1)

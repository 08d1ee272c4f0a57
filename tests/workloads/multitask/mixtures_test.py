"""Every mixture that a config can name: what its options come to."""

import jax
import numpy as np
import pytest

from configs import multitask
from moe.config import ConfigError
from moe.layers.multitask import SNR, omoe
from moe.workloads.multitask.mixtures import MIXTURES
from tests import tiny

pytestmark = pytest.mark.slow

X = {'numeric': tiny.numbers((4, 3), 0)}


def shapes(name, tasks=2, **options):
    """The mixture's parameters, by path."""
    plain = multitask.get_config(f'{name},synthetic')
    changes = {f'model.mixture.{k}': v for k, v in options.items()}
    changes['model.expert.widths'] = (5, 4)
    model = tiny.check(tiny.changed(plain, changes)).model
    module = model.build(tasks, 1)
    made = jax.eval_shape(module.init, jax.random.key(0), X)['params']
    leaves = jax.tree_util.tree_leaves_with_path(made.get('mixture', {}))
    return {
        '/'.join(key.key for key in path): leaf.shape for path, leaf in leaves
    }


@pytest.mark.parametrize(
    ('name', 'tasks', 'options', 'desired'),
    [
        ('shared_bottom', 3, {}, {'experts/dense_1/kernel': (1, 5, 4)}),
        ('single_task', 3, {}, {'experts/dense_0/kernel': (3, 3, 5)}),
        (
            'omoe',
            3,
            {'num_experts': 6},
            {
                'experts/dense_0/kernel': (6, 3, 5),
                'gates_of_6/router': (1, 3, 6),
            },
        ),
        ('mmoe', 3, {'num_experts': 6}, {'gates_of_6/router': (3, 3, 6)}),
        # Two tasks of 3 and 2 for all: 8 experts, of which a gate sees 5.
        (
            'cgc',
            2,
            {'task_experts': 3, 'shared_experts': 2},
            {
                'experts/dense_0/kernel': (8, 3, 5),
                'gates_of_5/router': (2, 3, 5),
            },
        ),
        # The shared gate of the first level sees all 8.
        (
            'ple',
            2,
            {'levels': 2, 'task_experts': 3, 'shared_experts': 2},
            {
                'level_0/gates_of_8/router': (1, 3, 8),
                'level_1/experts/dense_0/kernel': (8, 4, 5),
                'level_1/gates_of_5/router': (2, 4, 5),
            },
        ),
        (
            'cross_stitch',
            3,
            {'levels': 2},
            {'level_1/dense_0/kernel': (3, 4, 5), 'stitch_1': (3, 3)},
        ),
        # Rows of 2 and 3 networks, and 4 tasks.
        (
            'snr_trans',
            4,
            {'networks': (2, 3)},
            {
                'networks_0/dense_0/kernel': (2, 3, 5),
                'networks_1/dense_0/kernel': (3, 4, 5),
                'routes_0/weight': (3, 2, 4, 4),
                'routes_1/log_alpha': (4, 3),
            },
        ),
        ('snr_aver', 4, {'networks': (2,)}, {'routes_0/log_alpha': (4, 2)}),
    ],
    ids=lambda v: v if isinstance(v, str) else '',
)
def test_shapes(name, tasks, options, desired):
    found = shapes(name, tasks, **options)
    assert {k: found.get(k) for k in desired} == desired


def test_every_mixture_is_in_the_table_above():
    marks = test_shapes.pytestmark[0].args[1]
    assert {case[0] for case in marks} == set(MIXTURES)


@pytest.mark.parametrize('name', ['ple', 'cross_stitch'])
def test_levels_have_the_activation_of_the_config(name):
    # With a last relu nothing that the towers are given is negative.
    plain = multitask.get_config(f'{name},synthetic')
    for activation, sign in (('relu', False), ('linear', True)):
        changes = {
            'model.expert.output_activation': activation,
            'model.expert.activation': 'relu',
        }
        model = tiny.check(tiny.changed(plain, changes)).model
        module = model.build(2, 1)
        params = tiny.parameters(module.init, X)
        y, _ = module.mixture.apply(
            {'params': _mixed(params['mixture'])}, X['numeric']
        )
        assert np.any(np.asarray(y) < 0) == sign


def _mixed(params):
    """With positive stitches, so that they change no sign."""
    return {
        name: np.abs(leaf) if name.startswith('stitch') else leaf
        for name, leaf in params.items()
    }


SIZES = {'shared_bottom': 1, 'single_task': 2, 'cross_stitch': 2}
SIZES |= {'snr_aver': 4, 'snr_trans': 4}  # others have 8 side by side


@pytest.mark.parametrize('name', MIXTURES)
def test_networks_that_are_not_alike(name):
    # Every mixture takes them: one of three layers, the others of one.
    count = SIZES.get(name, 8)
    each = ({'widths': (5, 3, 4), 'activation': 'tanh'}, *[{}] * (count - 1))
    plain = multitask.get_config(f'{name},synthetic')
    changes = {'model.expert.widths': (4,), 'model.expert.each': each}
    config = tiny.check(tiny.changed(plain, changes))
    module = config.model.build(2, 1)
    params = tiny.parameters(module.init, X)
    leaves = jax.tree_util.tree_leaves_with_path(params['mixture'])
    layers = [path[-2].key for path, _ in leaves if path[-1].key == 'kernel']
    assert layers.count('dense_2') == layers.count('dense_1') > 0
    assert layers.count('dense_0') == count * layers.count('dense_1')
    y, aux = jax.jit(module.apply)({'params': params}, X)
    assert y.shape == (4, 2, 1)
    assert np.all(np.isfinite(y))
    assert np.isfinite(aux.losses['regularization'])


def test_options_of_the_routes_reach_them():
    section = {
        'name': 'snr_trans',
        'networks': (2, 3),
        'beta': 0.25,
        'gamma': -0.5,
        'zeta': 1.5,
        'straight_through': True,
        'kernel_init': 'he_normal',
        'kernel_penalty': {'l1': 0.5, 'l2': 0.25},
    }
    plain = multitask.get_config('snr_trans,synthetic')
    changes = {'model.mixture': section, 'model.expert.widths': (4,)}
    model = tiny.check(tiny.changed(plain, changes)).model
    made = model.mixture(model.expert, 2)
    assert [networks.num for networks in made.networks] == [2, 3]
    for outputs, route in zip((3, 2), made.routes, strict=True):
        assert route == SNR(
            outputs,
            4,
            'trans',
            beta=0.25,
            gamma=-0.5,
            zeta=1.5,
            straight_through=True,
            initializer='he_normal',
            l1=0.5,
            l2=0.25,
            parent=None,
        )
    # Without a penalty of their own they have that of the networks.
    del section['kernel_penalty']
    changes['model.expert.kernel_penalty'] = {'l2': 3.0}
    model = tiny.check(tiny.changed(plain, changes)).model
    assert model.mixture(model.expert, 2).routes[0].l2 == 3.0
    # Routes that only add have no matrix, and none of its options.
    section = {'name': 'snr_aver', 'kernel_init': 'zeros'}
    with pytest.raises(ConfigError, match="'snr_aver' has no such option"):
        tiny.check(tiny.changed(plain, {'model.mixture': section}))


def test_mixture_of_a_plugin(monkeypatch):
    monkeypatch.setattr(MIXTURES, '_entries', dict(MIXTURES._entries))

    @MIXTURES.register('two_bottoms')
    def two_bottoms(expert, num_tasks, *, num: int = 2):
        return omoe(expert.network, num, num_tasks, parent=None)

    plain = multitask.get_config('two_bottoms,synthetic')
    model = tiny.check(tiny.changed(plain, {'model.mixture.num': 3})).model
    made = jax.eval_shape(model.build(2, 1).init, jax.random.key(0), X)
    kernel = made['params']['mixture']['experts']['dense_0']['kernel']
    assert kernel.shape == (3, 3, 16)

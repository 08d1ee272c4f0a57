"""What the tasks of all transformers share."""

import numpy as np
import pytest

from moe.config import ConfigError
from moe.losses import AUXILIARY_LOSSES
from moe.workloads import registry
from tests import tiny


def test_layer_metrics():
    four = tiny.parsed({'model.num_layers': 4, 'model.moe_every': 2})
    stats = {
        'entropy': np.array([0.25, 0.5], np.float32),
        'load': np.array([[1, 1], [2, 0]], np.float32),
    }
    assert four.make_workload().layer_metrics(stats) == {
        'moe/layer_1/entropy': 0.25,
        'moe/layer_1/load': [1.0, 1.0],
        'moe/layer_3/entropy': 0.5,
        'moe/layer_3/load': [2.0, 0.0],
    }


@pytest.mark.parametrize(
    ('kernel', 'platform', 'allowed'),
    [
        ('xla', 'cpu', True),
        ('xla', 'gpu', True),
        ('cudnn', 'gpu', True),
        ('cudnn', 'tpu', False),
        ('splash', 'tpu', True),
        ('splash', 'cpu', False),
    ],
)
def test_kernels_of_platforms(kernel, platform, allowed):
    run = tiny.parsed({'model.attention': kernel, 'data.seq_len': 128})
    if allowed:
        run.check_platform(platform)
        return
    with pytest.raises(ConfigError) as caught:
        run.check_platform(platform)
    owner = {'cudnn': 'gpu', 'splash': 'tpu'}[kernel]
    assert str(caught.value) == (
        f"config.model.attention.name = '{kernel}': must be 'xla' on a "
        f'{platform}: this kernel is for a {owner}'
    )


def test_positions_that_a_kernel_cannot_divide():
    with pytest.raises(ConfigError, match='192 positions are no multiple'):
        tiny.parsed({'model.attention': 'splash', 'data.seq_len': 192})


def test_layers_compute_every_loss_that_has_a_coefficient(monkeypatch):
    # A registered one by its name; one with options under a name of its own.
    own = lambda summary: summary.gates.sum()
    monkeypatch.setitem(AUXILIARY_LOSSES._entries, 'own', own)
    config = tiny.parsed(
        {
            'losses': {'own': 0.5, 'by_group': 0.1, 'router_z': 0.0},
            'model.moe.losses': {
                'by_group': {'name': 'load_balance', 'scope': 'group'}
            },
        }
    )
    layer = config.model.moe.build('float32', 1.0)
    assert layer.losses['own'] is own
    assert layer.losses['by_group'].keywords == {'scope': 'group'}
    assert set(layer.losses) == {'own', 'by_group'}
    # It is one of the config's from then on, and reads back the same.
    again = tiny.check(registry.plain_of(config))
    assert registry.plain_of(again) == registry.plain_of(config)
    with pytest.raises(ConfigError, match='no such loss'):
        tiny.parsed({'losses': {'another': 1.0}})


@pytest.mark.parametrize(
    ('changes', 'notes'),
    [
        ({}, []),
        ({'model.moe_every': 0}, []),
        (
            {'model.moe.communication': 'all_to_all'},
            [
                'config.model.moe.communication = all_to_all has no effect: '
                'all experts are on one device (config.mesh.expert = 1)'
            ],
        ),
        ({'model.moe.communication': 'all_to_all', 'mesh.expert': 2}, []),
        (
            # A fixed table of token ids learns nothing.
            {'model.moe.router': 'hash', 'losses': {'load_balance': 0.5}},
            [
                'config.losses.load_balance = 0.5 has no effect on the router '
                'hash'
            ],
        ),
        # Gates that sum to 1 have a constant L1 norm; others have not.
        (
            {'losses': {'l1': 0.5, 'router_z': 0.0}},
            ['config.losses.l1 = 0.5 has no effect on the router top_k'],
        ),
        (
            {'losses': {'l1': 0.5}, 'model.moe.router.renormalize': False},
            [],
        ),
        (
            # Of 8 experts 2 are to be active: 8 (1 - .75).
            {
                'losses': {'router_z': 0.0},
                'model.moe.num_experts': 8,
                'model.moe.router': {'name': 'relu', 'k': 1},
            },
            [
                'config.losses.l1 = 0 leaves the sparsity of '
                'config.model.moe.router as it is (1 holds it)',
                'config.model.moe.router.k = 1 cuts gates off: '
                'penalty.sparsity = 0.75 leaves 2 of 8 experts',
            ],
        ),
    ],
    ids=str,
)
def test_notes_on_settings_without_effect(changes, notes):
    assert tiny.parsed(changes).notes() == notes

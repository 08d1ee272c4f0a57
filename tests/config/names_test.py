"""What was probably meant."""

import pytest

from moe.config import ConfigError, override
from moe.config.names import nearest
from moe.workloads.lm.workload import LanguageConfig
from moe.workloads.multitask.workload import MultiTaskRun


@pytest.mark.parametrize(
    ('name', 'known', 'meant'),
    [
        # Where letters alone say something else.
        ('lr', ['clip_norm', 'learning_rate'], 'learning_rate'),
        ('shared_experts', ['zero_experts', 'shared'], 'shared.network'),
        ('n_experts', ['num_experts', 'experts'], 'num_experts'),
        ('top_k', ['router', 'hop_k'], 'router.k'),
        ('executor', ['experts', 'dispatcher'], 'dispatcher'),
        # Where a field stood before it became an option of another section.
        ('penalty_rate', ['k', 'penalty'], 'penalty.rate'),
        ('widht', ['width', 'height'], 'width'),
        ('x', [], '-'),
    ],
)
def test_nearest(name, known, meant):
    assert nearest(name, known) == meant


@pytest.mark.parametrize(
    ('field', 'meant'),
    [
        ('optimizer.warmup_steps', 'schedule.warmup_steps'),
        ('data.files', 'source.files'),
        ('data.val_fraction', 'source.val_fraction'),
        ('seq_len', 'data.seq_len'),
    ],
)
def test_a_field_that_stands_one_section_deeper(field, meant):
    with pytest.raises(ConfigError) as error:
        override(LanguageConfig, {}, [(field, 1)])
    assert error.value.allowed.endswith(f'(nearest: {meant})')


@pytest.mark.parametrize(
    ('changes', 'meant'),
    [
        ({'balance.gradnorm_alpha': 2}, 'alpha, of gradnorm'),
        (
            {'balance.name': 'gradnorm', 'balance.gradnorm_alpha': 2},
            'alpha',
        ),
    ],
    ids=['another entry', 'this entry'],
)
def test_an_option_that_was_a_field_of_the_section(changes, meant):
    # Whether or not the entry that has the option is the one that is chosen.
    with pytest.raises(ConfigError) as error:
        override(MultiTaskRun, {'workload': 'multitask'}, changes.items())
    assert error.value.allowed.endswith(f'(nearest: {meant})')

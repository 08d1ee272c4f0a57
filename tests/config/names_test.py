"""What was probably meant."""

import pytest

from moe.config.names import nearest


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
        ('warmup_steps', ['b1', 'schedule'], 'schedule.warmup_steps'),
        ('penalty_rate', ['k', 'penalty'], 'penalty.rate'),
        ('widht', ['width', 'height'], 'width'),
        ('x', [], '-'),
    ],
)
def test_nearest(name, known, meant):
    assert nearest(name, known) == meant

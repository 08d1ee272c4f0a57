import math

import pytest

from moe.checkpoints.hf.rope import as_before, rope
from moe.config import ConfigError

LLAMA3 = {
    'factor': 8.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 8192,
}
YARN = {'factor': 4.0, 'original_max_position_embeddings': 4096}


@pytest.mark.parametrize(
    'given',
    [
        {'rope_theta': 5e5, 'rope_scaling': {'rope_type': 'llama3', **LLAMA3}},
        {'rope_theta': 5e5, 'rope_scaling': {'type': 'llama3', **LLAMA3}},
        {
            'rope_parameters': {
                'rope_type': 'llama3',
                'rope_theta': 5e5,
                **LLAMA3,
            }
        },
    ],
)
def test_both_forms_say_the_same(given):
    found = rope().read(given)['rope']
    assert found == {
        'theta': 5e5,
        'share': 1.0,
        'interleaved': False,
        'scaling': {
            'name': 'llama3',
            'factor': 8.0,
            'low_freq_factor': 1.0,
            'high_freq_factor': 4.0,
            'original_length': 8192,
        },
    }
    written = rope().write({'rope': found})
    assert rope().read(written)['rope'] == found
    back = as_before(written, given)
    if 'rope_parameters' not in given:
        assert back['rope_theta'] == 5e5
        assert back['rope_scaling'] == given['rope_scaling']
        assert 'rope_parameters' not in back


def test_no_scaling_is_none_in_both_forms():
    written = rope().write(rope().read({'rope_theta': 1e4}))
    kind = {'rope_theta': 1e4, 'rope_type': 'default'}
    assert written == {'rope_parameters': kind}
    before = {'rope_theta': 1e4, 'rope_scaling': None}
    assert as_before(written, before) == before


def test_yarn_without_lengths_takes_those_of_the_model():
    scaling = rope().read(
        {
            'rope_theta': 1e4,
            'max_position_embeddings': 8192,
            'rope_scaling': {
                'type': 'yarn',
                'original_max_position_embeddings': 2048,
                'factor': None,
            },
        }
    )['rope']['scaling']
    assert scaling['factor'] == 4.0
    scaling = rope().read(
        {
            'rope_theta': 1e4,
            'max_position_embeddings': 8192,
            'rope_scaling': {'type': 'yarn', 'factor': 2.0},
        }
    )['rope']['scaling']
    assert scaling['original_length'] == 8192


def test_deepseek_scales_attention_with_yarn_alone():
    sizes = {'qk_nope_head_dim': 128, 'qk_rope_head_dim': 64}
    entry = rope(interleave='rope_interleave', mscale=True)
    plain = entry.read({'rope_theta': 1e4, **sizes})
    assert plain['attention_scale'] is None
    scaled = entry.read(
        {
            'rope_theta': 1e4,
            'rope_scaling': {'type': 'yarn', 'mscale_all_dim': 0.5, **YARN},
            **sizes,
        }
    )
    m = 0.1 * 0.5 * math.log(4) + 1
    assert math.isclose(scaled['attention_scale'], m * m * 192**-0.5)


@pytest.mark.parametrize(
    ('given', 'line'),
    [
        ({'rope_type': 'dynamic', 'factor': 2.0}, 'rope_type'),
        ({'rope_type': 'linear'}, r'rope_parameters\.factor = None'),
        ({'rope_type': 'default', 'factor': 2.0}, "absent with rope_type 'def"),
        ({'rope_type': 'yarn', 'short': 1, **YARN}, r'parameters\.short = 1'),
        ({'full_attention': {'rope_type': 'yarn'}}, 'same for all layers'),
        ({'partial_rotary_factor': 0.5}, 'partial_rotary_factor = 0.5'),
    ],
)
def test_what_is_not_known_is_refused(given, line):
    given = {'rope_theta': 1e4, 'rope_parameters': given}
    with pytest.raises(ConfigError, match=line):
        rope().read(given)

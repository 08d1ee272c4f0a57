import pytest

from moe.checkpoints.hf.fields import (
    constant,
    fixed,
    read_fields,
    same,
    unread,
    value_of,
    write_fields,
)
from moe.config import ConfigError

ENTRIES = [
    same('hidden_size', 'd_model'),
    same('norm_topk', 'moe.router.renormalize'),
    fixed('scoring', 'softmax', 'Softmax'),
    constant('qk_norm', 'head'),
    unread('use_cache'),
]
GIVEN = {'hidden_size': 8, 'norm_topk': True, 'use_cache': False}


def test_fields_become_sections_and_fields_again():
    model = read_fields(ENTRIES, {**GIVEN, 'scoring': 'Softmax'})
    assert model == {
        'd_model': 8,
        'moe': {'router': {'renormalize': True}},
        'qk_norm': 'head',
    }
    assert write_fields(ENTRIES, model) == {
        'hidden_size': 8,
        'norm_topk': True,
        'scoring': 'softmax',
    }


def test_a_field_that_is_not_known_is_refused_by_name():
    line = r'new_bias = 3: must be a field that is known.*--ignore=new_bias'
    with pytest.raises(ConfigError, match=line):
        read_fields(ENTRIES, {**GIVEN, 'new_bias': 3})


def test_a_field_without_a_value_says_nothing():
    assert read_fields(ENTRIES, {**GIVEN, 'new_bias': None})


def test_another_value_of_a_fixed_field_is_refused():
    with pytest.raises(ConfigError, match="scoring = 'tanh': must be 'soft"):
        read_fields(ENTRIES, {**GIVEN, 'scoring': 'tanh'})


def test_values_below_no_section_are_none():
    assert value_of({'shared': None}, 'shared.network.hidden') is None
    assert value_of({'shared': {'gate': 'none'}}, 'shared.gate') == 'none'

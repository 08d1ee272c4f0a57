import pytest

from moe.checkpoints.hf.windows import layer_types
from moe.config import ConfigError

FULL, SLIDING = 'full_attention', 'sliding_attention'
GIVEN = {'num_hidden_layers': 3, 'sliding_window': 5}


def first(given, layer):
    return layer == 0


def test_layers_are_those_of_the_list_or_of_the_rule():
    entry = layer_types(first)
    found = entry.read(GIVEN)
    assert found == {'sliding_window': 5, 'window_layers': (0,)}
    kinds = [FULL, SLIDING, SLIDING]
    found = entry.read({**GIVEN, 'layer_types': kinds})
    assert found == {'sliding_window': 5, 'window_layers': (1, 2)}
    written = entry.write({**found, 'num_layers': 3})
    assert written == {'layer_types': kinds, 'sliding_window': 5}


def test_a_window_of_all_layers_names_none():
    found = layer_types(lambda given, layer: True).read(GIVEN)
    assert found == {'sliding_window': 5}
    written = layer_types(first).write({**found, 'num_layers': 3})
    assert written['layer_types'] == 3 * [SLIDING]
    written = layer_types(first).write({'num_layers': 3})
    assert written == {'layer_types': 3 * [FULL]}


def test_a_switch_that_is_off_is_no_window():
    entry = layer_types(first, switch='use')
    assert entry.read({**GIVEN, 'use': False}) == {}
    written = entry.write({'num_layers': 3})
    assert written == {
        'layer_types': 3 * [FULL],
        'sliding_window': None,
        'use': False,
    }


@pytest.mark.parametrize('kinds', [[FULL], 3 * ['chunked_attention']])
def test_other_kinds_and_numbers_are_refused(kinds):
    with pytest.raises(ConfigError, match='3 of full_attention and sliding'):
        layer_types(first).read({**GIVEN, 'layer_types': kinds})

"""What a model asks of its mixtures."""

import warnings

import pytest

from moe.config import ConfigError
from moe.layers.config import check_model
from tests import tiny
from tests.layers.config_test import config_of, two_level

HASH = {'name': 'hash', 'vocab_size': 16}
CHOICE = {'name': 'expert_choice'}


def test_a_model_without_token_ids_has_no_hash():
    with pytest.raises(ConfigError) as error:
        check_model(config_of(router=HASH), causal=False, vocab_size=None)
    assert str(error.value) == (
        "moe.router.name = 'hash': must be a router without token ids, in this "
        'model'
    )
    config = config_of(**two_level(2, HASH))
    with pytest.raises(
        ConfigError, match=r"^moe.hierarchy.router.name = 'hash'"
    ):
        check_model(config, causal=False, vocab_size=None)
    # In the layer itself all is well.
    assert check_model(config, causal=True, vocab_size=16) is None


@pytest.mark.parametrize('level', ['router', 'hierarchy.router'])
def test_a_table_has_every_id_of_the_model(level):
    table = {'name': 'hash', 'vocab_size': 299}
    changes = {'moe.hierarchy.groups': 2, f'moe.{level}': table}
    with pytest.raises(ConfigError) as error:
        tiny.model(changes | {'vocab_size': 300})
    assert str(error.value) == (
        f'config.model.moe.{level}.vocab_size = 299: must be at least the '
        "model's vocab_size (300)"
    )
    assert tiny.model(changes | {'vocab_size': 299})


@pytest.mark.parametrize(
    ('field', 'section'),
    [
        ('router', CHOICE),
        ('hierarchy.router', CHOICE),
    ],
)
def test_a_causal_model_does_not_look_ahead_unawares(field, section):
    changes = {f'moe.{field}': section}
    if field == 'hierarchy.router':
        changes['moe.hierarchy.groups'] = 2
    with pytest.raises(ConfigError) as error:
        tiny.model(changes)
    name = section['name']
    assert str(error.value) == (
        f"config.model.moe.{field}.name = '{name}': must be a router that does "
        'not see later tokens, in a causal model (or set allow_lookahead to '
        'True)'
    )
    with pytest.warns(UserWarning, match=f'{name} routing sees later tokens'):
        tiny.model(changes | {'moe.allow_lookahead': True})
    # A dense model has no mixture, an image all of its patches at once.
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        tiny.model(changes | {'moe_every': 0})
        inner = {'router': section}
        if field != 'router':
            inner = two_level(2, section)
        config = config_of(**inner)
        assert check_model(config, causal=False, vocab_size=None) is None


@pytest.mark.parametrize('allowed', [False, True])
def test_a_causal_model_has_no_soft_mixture(allowed):
    # Its slots are of the length trained on: nothing could be generated.
    changes = {'moe.router': {'name': 'soft'}, 'moe.allow_lookahead': allowed}
    with pytest.raises(ConfigError) as error:
        tiny.model(changes)
    assert str(error.value) == (
        "config.model.moe.router.name = 'soft': must be a router of "
        'assignments: soft slots are of one length'
    )

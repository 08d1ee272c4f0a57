import pytest

from moe.checkpoints.hf.mixtral import LLAMA, MIXTRAL, OLMOE
from moe.config import ConfigError
from tests.checkpoints.hf import published


def test_the_published_mixtral_is_as_its_paper_says():
    model = MIXTRAL.read_config(published.MIXTRAL_8X7B)
    # arXiv 2401.04088, table 1.
    assert (model['d_model'], model['num_layers']) == (4096, 32)
    assert (model['num_heads'], model['num_kv_heads']) == (32, 8)
    assert model['moe']['experts']['hidden'] == 14336
    assert model['moe']['router'] == {
        'name': 'top_k',
        'k': 2,
        'renormalize': True,
    }
    assert 'sliding_window' not in model


def test_mixtral_has_one_window_for_all_layers():
    model = MIXTRAL.read_config({'sliding_window': 4096})
    assert model['sliding_window'] == 4096
    assert 'window_layers' not in model


def test_the_published_olmoe_does_not_renormalise():
    model = OLMOE.read_config(published.OLMOE_1B_7B)
    assert model['moe']['router']['renormalize'] is False
    assert model['qk_norm'] == 'width'
    assert model['clip_qkv'] is None


def test_llama_has_no_mixtures_and_may_have_biases():
    model = LLAMA.read_config({'attention_bias': True, 'mlp_bias': True})
    assert model['moe_every'] == 0
    assert model['attention_bias'] == 'all'
    assert model['dense']['use_bias'] is True


def test_a_head_that_turns_in_part_is_refused():
    with pytest.raises(ConfigError, match=r'partial_rotary_factor = 0\.5'):
        LLAMA.read_config({'partial_rotary_factor': 0.5})

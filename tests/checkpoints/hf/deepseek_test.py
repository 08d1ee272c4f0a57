import math

import pytest

from moe.checkpoints.hf.deepseek import DEEPSEEK_V2, DEEPSEEK_V3, GLM4_MOE
from moe.config import ConfigError
from tests.checkpoints.hf import published


def test_the_published_deepseek_v3_is_as_its_report_says():
    model = DEEPSEEK_V3.read_config(published.DEEPSEEK_V3)
    # arXiv 2412.19437, section 4.2.
    assert model['latent'] == {
        'kv_rank': 512,
        'q_rank': 1536,
        'nope_dim': 128,
        'rope_dim': 64,
        'value_dim': 128,
    }
    assert model['dense_layers'] == (0, 1, 2)
    assert model['moe']['shared']['network']['hidden'] == 2048
    assert model['moe']['router'] == {
        'name': 'group_limited',
        'k': 8,
        'renormalize': True,
        'scale': 2.5,
        'expert_groups': 8,
        'chosen_groups': 4,
        'scored_experts': 2,
    }
    assert model['rope']['interleaved'] is True
    m = 0.1 * math.log(40) + 1
    assert math.isclose(model['attention_scale'], m * m / math.sqrt(192))


def test_kimi_k2_has_one_group():
    model = DEEPSEEK_V3.read_config(published.KIMI_K2)
    assert model['moe']['router'] == {
        'name': 'sigmoid',
        'k': 8,
        'renormalize': True,
        'scale': 2.827,
    }
    assert model['dense_layers'] == (0,)


def test_deepseek_v2_lite_takes_the_greatest_probabilities():
    model = DEEPSEEK_V2.read_config(published.DEEPSEEK_V2_LITE)
    assert model['latent']['q_rank'] is None
    assert model['moe']['router'] == {
        'name': 'top_k',
        'k': 6,
        'renormalize': False,
    }
    assert model['moe']['shared']['network']['hidden'] == 2 * 1408


@pytest.mark.parametrize(
    ('family', 'given'),
    [
        (DEEPSEEK_V2, {'topk_method': 'group_limited_greedy'}),
        (DEEPSEEK_V2, {'routed_scaling_factor': 16.0}),
        (DEEPSEEK_V2, {'norm_topk_prob': True}),
        (DEEPSEEK_V3, {'scoring_func': 'softmax'}),
        (DEEPSEEK_V3, {'topk_method': 'greedy'}),
        (DEEPSEEK_V3, {'moe_layer_freq': 2}),
        (DEEPSEEK_V3, {'attention_bias': True}),
        (DEEPSEEK_V3, {'num_key_value_heads': 8}),
        (GLM4_MOE, {'num_experts_per_tok': 1}),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(family, given):
    (name,) = given
    if family is DEEPSEEK_V2:
        given = {**published.DEEPSEEK_V2_LITE, **given}
    with pytest.raises(ConfigError) as error:
        family.read_config(given)
    assert error.value.field == name


def test_no_shared_experts_are_none():
    model = DEEPSEEK_V3.read_config({'n_shared_experts': 0})
    assert model['moe']['shared'] is None


def test_glm_turns_half_of_each_head_by_default():
    model = GLM4_MOE.read_config({'use_qk_norm': True, 'attention_bias': True})
    assert model['rope']['share'] == 0.5
    assert model['qk_norm'] == 'head'
    assert model['attention_bias'] == 'qkv'


def test_groups_of_which_all_are_taken_are_none():
    given = {'n_group': 4, 'topk_group': 4}
    router = GLM4_MOE.read_config(given)['moe']['router']
    assert router['name'] == 'sigmoid'

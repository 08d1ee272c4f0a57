from moe.checkpoints.hf.qwen import QWEN2_MOE, QWEN3, QWEN3_MOE
from tests.checkpoints.hf import published


def test_the_published_qwen3_has_heads_of_its_own_width():
    model = QWEN3_MOE.read_config(published.QWEN3_30B_A3B)
    assert model['head_dim'] == 128
    assert model['qk_norm'] == 'head'
    assert model['moe']['router']['renormalize'] is True
    assert 'sliding_window' not in model


def test_the_window_of_qwen3_moe_is_of_all_layers():
    given = {'use_sliding_window': True, 'sliding_window': 100}
    assert QWEN3_MOE.read_config(given)['sliding_window'] == 100
    given['use_sliding_window'] = False
    assert 'sliding_window' not in QWEN3_MOE.read_config(given)


def test_the_window_of_qwen3_is_of_the_last_layers():
    model = QWEN3.read_config(
        {
            'use_sliding_window': True,
            'sliding_window': 100,
            'num_hidden_layers': 4,
            'max_window_layers': 2,
        }
    )
    assert model['window_layers'] == (2, 3)


def test_the_window_of_qwen2_moe_is_of_every_other_first_layer():
    model = QWEN2_MOE.read_config(
        {
            'use_sliding_window': True,
            'sliding_window': 100,
            'num_hidden_layers': 8,
            'max_window_layers': 5,
        }
    )
    assert model['window_layers'] == (0, 2, 4)


def test_the_shared_expert_of_qwen2_moe_has_a_gate():
    model = QWEN2_MOE.read_config({'shared_expert_intermediate_size': 7})
    assert model['moe']['shared'] == {
        'network': {'hidden': 7, 'activation': 'swiglu'},
        'gate': 'sigmoid',
    }
    assert model['attention_bias'] == 'qkv'

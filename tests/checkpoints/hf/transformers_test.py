"""Both directions with transformers itself, where it is installed.

Every family with other values of its fields than the goldens have: what a
published `config.json` may say is honoured, or refused by its name.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.checkpoints.hf.files import write_tensors
from moe.checkpoints.hf.runs import complete_config
from moe.checkpoints.hf.write import plan
from moe.workloads.lm.model import LM
from moe.workloads.registry import plain_of
from tests.checkpoints.hf.goldens import FAMILIES, FOLDER, load

transformers = pytest.importorskip(
    'transformers',
    reason="the peers are not installed: pip install 'moe[peers]'",
)
torch = pytest.importorskip('torch')
pytestmark = pytest.mark.filterwarnings('ignore')

EAGER = {'attn_implementation': 'eager', 'experts_implementation': 'eager'}
YARN = {
    'rope_type': 'yarn',
    'rope_theta': 10000.0,
    'factor': 4.0,
    'original_max_position_embeddings': 16,
}
LLAMA3 = {
    'rope_type': 'llama3',
    'rope_theta': 10000.0,
    'factor': 8.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 32,
}
LINEAR = {'rope_type': 'linear', 'rope_theta': 500.0, 'factor': 3.0}
# Fields that differ from those of the golden, several at once.
OTHERS = [
    ('mixtral', {'sliding_window': 5, 'num_experts_per_tok': 3}),
    ('mixtral', {'head_dim': None, 'rope_parameters': LINEAR}),
    ('mixtral', {'tie_word_embeddings': True, 'rms_norm_eps': 0.1}),
    ('olmoe', {'norm_topk_prob': True, 'clip_qkv': None}),
    ('olmoe', {'attention_bias': True, 'num_experts_per_tok': 1}),
    ('olmoe', {'hidden_act': 'gelu_pytorch_tanh', 'rope_parameters': YARN}),
    ('qwen2_moe', {'norm_topk_prob': True, 'decoder_sparse_step': 2}),
    ('qwen2_moe', {'qkv_bias': False, 'mlp_only_layers': [0]}),
    ('qwen2_moe', {'mlp_only_layers': [0, 2], 'decoder_sparse_step': 2}),
    (
        'qwen2_moe',
        {
            'use_sliding_window': True,
            'sliding_window': 4,
            'max_window_layers': 2,
            'layer_types': None,
        },
    ),
    ('qwen3_moe', {'norm_topk_prob': False, 'attention_bias': True}),
    ('qwen3_moe', {'use_sliding_window': True, 'sliding_window': 7}),
    ('qwen3_moe', {'head_dim': 8, 'hidden_size': 48, 'mlp_only_layers': []}),
    ('qwen3_moe', {'decoder_sparse_step': 3, 'mlp_only_layers': []}),
    ('qwen3', {'tie_word_embeddings': False, 'attention_bias': True}),
    (
        'qwen3',
        {
            'use_sliding_window': True,
            'sliding_window': 4,
            'max_window_layers': 1,
            'layer_types': None,
        },
    ),
    ('llama', {'attention_bias': True, 'mlp_bias': True, 'head_dim': 12}),
    ('llama', {'rope_parameters': {**YARN, 'truncate': False}}),
    ('llama', {'rope_parameters': {**YARN, 'attention_factor': 1.7}}),
    (
        'llama',
        {'rope_parameters': {**YARN, 'mscale': 0.8, 'mscale_all_dim': 0.5}},
    ),
    ('glm4_moe', {'use_qk_norm': False, 'attention_bias': False}),
    ('glm4_moe', {'norm_topk_prob': False, 'n_group': 1, 'topk_group': 1}),
    ('glm4_moe', {'first_k_dense_replace': 0, 'n_shared_experts': 2}),
    (
        'glm4_moe',
        {
            'head_dim': 16,
            'rope_parameters': {**LLAMA3, 'partial_rotary_factor': 0.25},
        },
    ),
    ('glm4_moe', {'first_k_dense_replace': 2, 'routed_scaling_factor': 0.7}),
    ('granitemoe', {'attention_bias': True, 'tie_word_embeddings': False}),
    ('granitemoe', {'logits_scaling': 7.0, 'rope_parameters': YARN}),
    ('granitemoeshared', {'shared_intermediate_size': 0}),
    ('granitemoeshared', {'tie_word_embeddings': True}),
    ('deepseek_v3', {'rope_interleave': False, 'norm_topk_prob': False}),
    ('deepseek_v3', {'q_lora_rank': None, 'n_group': 4, 'topk_group': 2}),
    ('deepseek_v3', {'first_k_dense_replace': 3}),
    (
        'deepseek_v3_no_q_lora',
        {'n_shared_experts': 1, 'rope_parameters': LINEAR},
    ),
    ('deepseek_v3_no_q_lora', {'q_lora_rank': 20, 'v_head_dim': 6}),
    ('gpt_oss', {'layer_types': None, 'sliding_window': 3}),
    ('gpt_oss', {'swiglu_limit': 0.5, 'swiglu_alpha': 1.0}),
    ('gpt_oss', {'attention_bias': False, 'num_experts_per_tok': 4}),
    ('gpt_oss', {'tie_word_embeddings': True, 'rope_parameters': LINEAR}),
    (
        'gpt_oss',
        {'layer_types': 3 * ['full_attention'], 'rope_parameters': LLAMA3},
    ),
]


def made(name, changes, folder):
    """A model with random weights, saved; returns its logits of its tokens."""
    config = transformers.AutoConfig.from_pretrained(FOLDER / name).to_dict()
    config |= changes
    known = transformers.CONFIG_MAPPING[config['model_type']]
    torch.manual_seed(len(str(changes)))
    model = transformers.AutoModelForCausalLM.from_config(
        known(**config), **EAGER
    )
    model.eval()
    with torch.no_grad():
        for parameter in [*model.parameters(), *model.buffers()]:
            if parameter.ndim == 1 and parameter.is_floating_point():
                parameter.add_(0.2 * torch.randn(parameter.shape))
    # Rotary frequencies are buffers too, which are computed again.
    model.save_pretrained(folder)
    return reopened(folder)


def reopened(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, **EAGER
    )
    model.eval()
    tokens = torch.arange(24).reshape(2, 12) % model.config.vocab_size
    with torch.no_grad():
        return tokens.numpy(), model(tokens).logits.numpy()


def exported(one, folder):
    values = {n: np.asarray(x) for n, x in one.leaves.items()}
    write_tensors(folder, plan(one.tensors, values, lambda _, own: own), 50_000)
    written = complete_config(
        one.opened.family,
        plain_of(one.config)['model'],
        one.opened.config,
        one.config.data.seq_len,
    )
    (folder / 'config.json').write_text(json.dumps(written))


@pytest.mark.parametrize(
    ('name', 'changes'), [(n, c) for n, c in OTHERS if n in FAMILIES]
)
def test_models_of_other_fields_compute_the_same(tmp_path, name, changes):
    tokens, wanted = made(name, changes, tmp_path)
    one = load(tmp_path)
    model = LM(one.config.model)
    logits = jax.jit(model.apply)(one.variables, jnp.asarray(tokens))[0]
    assert np.abs(logits - wanted).max() <= 1e-4 * np.abs(wanted).max()
    again = tmp_path / 'again'
    again.mkdir()
    exported(one, again)
    assert np.array_equal(reopened(again)[1], wanted)


@pytest.mark.parametrize('name', FAMILIES)
def test_transformers_opens_what_is_exported(tmp_path, name):
    wanted = reopened(FOLDER / name)[1]
    exported(load(FOLDER / name), tmp_path)
    assert np.array_equal(reopened(tmp_path)[1], wanted)

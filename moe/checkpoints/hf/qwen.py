"""Qwen2-MoE, Qwen3-MoE, and dense Qwen3."""

from collections.abc import Mapping
from typing import Any

from moe.checkpoints.hf.common import (
    activation,
    attention_rows,
    biases,
    dense_stack,
    head_dim,
    model_rows,
    moe_sizes,
    network_rows,
    sizes,
    softmax_router,
    sparse_steps,
)
from moe.checkpoints.hf.family import Family, register
from moe.checkpoints.hf.fields import Entry, constant, fixed, same
from moe.checkpoints.hf.rope import rope
from moe.checkpoints.hf.tensors import row
from moe.checkpoints.hf.windows import layer_types

_LAYER = 'model.layers.{layer}'
_DEFAULTS = {
    'vocab_size': 151_936,
    'tie_word_embeddings': False,
    'hidden_act': 'silu',
    'rope_theta': 10_000.0,
    'rms_norm_eps': 1e-6,
    'use_sliding_window': False,
    'sliding_window': 4096,
    'max_position_embeddings': 32_768,
}
_MIXTURE = {
    'num_hidden_layers': 24,
    'hidden_size': 2048,
    'decoder_sparse_step': 1,
    'mlp_only_layers': (),
    'norm_topk_prob': False,
}
_MIXTURE_ROWS = [
    *model_rows(),
    *attention_rows(),
    row(f'{_LAYER}.mlp.gate.weight', 'moe/router'),
    *network_rows(f'{_LAYER}.mlp.experts.{{expert}}', 'moe/experts'),
    *network_rows(f'{_LAYER}.mlp', 'mlp'),
]


def _alternate(given: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer of Qwen2-MoE has the window, where no list says it."""
    return not layer % 2 and layer < given['max_window_layers']


def _last(given: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer of Qwen3 has the window, where no list says it."""
    return layer >= given['max_window_layers']


def _all_windows() -> Entry:
    """Returns the entry of Qwen3-MoE's window, which all layers have."""

    def read(given):
        used = given['use_sliding_window']
        window = given['sliding_window'] if used else None
        return {'sliding_window': window} if window else {}

    def write(model):
        window = model.get('sliding_window')
        used = window is not None
        return {'use_sliding_window': used, 'sliding_window': window}

    return Entry(
        ('use_sliding_window', 'sliding_window', 'max_window_layers'),
        read,
        write,
    )


QWEN2_MOE = register(
    Family(
        name='qwen2_moe',
        architecture='Qwen2MoeForCausalLM',
        defaults={
            **_DEFAULTS,
            **_MIXTURE,
            'intermediate_size': 5632,
            'moe_intermediate_size': 1408,
            'shared_expert_intermediate_size': 5632,
            'num_attention_heads': 16,
            'num_key_value_heads': 16,
            'num_experts': 60,
            'num_experts_per_tok': 4,
            'qkv_bias': True,
            'max_window_layers': 28,
        },
        aliases={'num_local_experts': 'num_experts'},
        entries=[
            *sizes(),
            head_dim(),
            rope(),
            biases('qkv_bias', 'qkv'),
            layer_types(_alternate, switch='use_sliding_window'),
            activation('dense', 'moe.experts', 'moe.shared.network'),
            same('intermediate_size', 'dense.hidden'),
            *moe_sizes('num_experts', 'moe_intermediate_size'),
            softmax_router('norm_topk_prob'),
            same(
                'shared_expert_intermediate_size', 'moe.shared.network.hidden'
            ),
            constant('moe.shared.gate', 'sigmoid'),
            sparse_steps(),
        ],
        rows=[
            *_MIXTURE_ROWS,
            *network_rows(f'{_LAYER}.mlp.shared_expert', 'moe/shared'),
            row(f'{_LAYER}.mlp.shared_expert_gate.weight', 'moe/shared_gate'),
        ],
    )
)

QWEN3_MOE = register(
    Family(
        name='qwen3_moe',
        architecture='Qwen3MoeForCausalLM',
        defaults={
            **_DEFAULTS,
            **_MIXTURE,
            'intermediate_size': 6144,
            'moe_intermediate_size': 768,
            'num_attention_heads': 32,
            'num_key_value_heads': 4,
            'num_experts': 128,
            'num_experts_per_tok': 8,
            'attention_bias': False,
        },
        aliases={'num_local_experts': 'num_experts'},
        entries=[
            *sizes(),
            head_dim(),
            rope(),
            biases('attention_bias', 'all'),
            constant('qk_norm', 'head'),
            _all_windows(),
            activation('dense', 'moe.experts'),
            same('intermediate_size', 'dense.hidden'),
            *moe_sizes('num_experts', 'moe_intermediate_size'),
            softmax_router('norm_topk_prob'),
            sparse_steps(),
        ],
        rows=_MIXTURE_ROWS,
    )
)

QWEN3 = register(
    Family(
        name='qwen3',
        architecture='Qwen3ForCausalLM',
        defaults={
            **_DEFAULTS,
            'hidden_size': 4096,
            'intermediate_size': 22_016,
            'num_hidden_layers': 32,
            'num_attention_heads': 32,
            'num_key_value_heads': 32,
            'head_dim': 128,
            'attention_bias': False,
            'max_window_layers': 28,
        },
        entries=[
            *sizes(),
            head_dim(always=True),
            rope(),
            biases('attention_bias', 'all'),
            constant('qk_norm', 'head'),
            layer_types(_last, switch='use_sliding_window'),
            activation('dense'),
            same('intermediate_size', 'dense.hidden'),
            fixed('mlp_bias', False),
            *dense_stack(),
        ],
        rows=[
            *model_rows(),
            *attention_rows(),
            *network_rows(f'{_LAYER}.mlp', 'mlp'),
        ],
    )
)

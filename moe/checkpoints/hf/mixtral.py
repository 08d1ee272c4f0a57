"""Mixtral, OLMoE, and dense Llama."""

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
)
from moe.checkpoints.hf.family import Family, register
from moe.checkpoints.hf.fields import Entry, constant, same
from moe.checkpoints.hf.rope import rope
from moe.checkpoints.hf.tensors import row

_LAYER = 'model.layers.{layer}'
# Fields whose absence means the same in all three.
_DEFAULTS = {
    'tie_word_embeddings': False,
    'hidden_act': 'silu',
    'rope_theta': 10_000.0,
}


def _windows() -> Entry:
    """Returns the entry of a window of all layers."""
    name = 'sliding_window'
    return Entry(
        (name,),
        lambda g: {name: g[name]} if g.get(name) else {},
        lambda m: {name: m.get(name)},
    )


MIXTRAL = register(
    Family(
        name='mixtral',
        architecture='MixtralForCausalLM',
        defaults={
            **_DEFAULTS,
            'vocab_size': 32_000,
            'hidden_size': 4096,
            'intermediate_size': 14_336,
            'num_hidden_layers': 32,
            'num_attention_heads': 32,
            'num_key_value_heads': 8,
            'num_local_experts': 8,
            'num_experts_per_tok': 2,
            'rms_norm_eps': 1e-5,
            'rope_theta': 1e6,
            'max_position_embeddings': 131_072,
        },
        aliases={'num_experts': 'num_local_experts'},
        entries=[
            *sizes(),
            head_dim(),
            rope(),
            _windows(),
            activation('moe.experts'),
            *moe_sizes('num_local_experts', 'intermediate_size'),
            softmax_router(None),
            constant('moe_every', 1),
        ],
        rows=[
            *model_rows(),
            *attention_rows(),
            row(f'{_LAYER}.block_sparse_moe.gate.weight', 'moe/router'),
            *network_rows(
                f'{_LAYER}.block_sparse_moe.experts.{{expert}}',
                'moe/experts',
                ('w1', 'w3', 'w2'),
            ),
        ],
    )
)

OLMOE = register(
    Family(
        name='olmoe',
        architecture='OlmoeForCausalLM',
        defaults={
            **_DEFAULTS,
            'vocab_size': 50_304,
            'hidden_size': 2048,
            'intermediate_size': 2048,
            'num_hidden_layers': 16,
            'num_attention_heads': 16,
            'num_experts': 64,
            'num_experts_per_tok': 8,
            'norm_topk_prob': False,
            'rms_norm_eps': 1e-5,
            'max_position_embeddings': 4096,
        },
        aliases={'num_local_experts': 'num_experts'},
        entries=[
            *sizes(),
            head_dim(),
            rope(),
            biases('attention_bias', 'all'),
            constant('qk_norm', 'width'),
            same('clip_qkv', 'clip_qkv'),
            activation('moe.experts'),
            *moe_sizes('num_experts', 'intermediate_size'),
            softmax_router('norm_topk_prob'),
            constant('moe_every', 1),
        ],
        rows=[
            *model_rows(),
            *attention_rows(),
            row(f'{_LAYER}.mlp.gate.weight', 'moe/router'),
            *network_rows(f'{_LAYER}.mlp.experts.{{expert}}', 'moe/experts'),
        ],
    )
)

LLAMA = register(
    Family(
        name='llama',
        architecture='LlamaForCausalLM',
        defaults={
            **_DEFAULTS,
            'vocab_size': 32_000,
            'hidden_size': 4096,
            'intermediate_size': 11_008,
            'num_hidden_layers': 32,
            'num_attention_heads': 32,
            'rms_norm_eps': 1e-6,
            'attention_bias': False,
            'mlp_bias': False,
            'max_position_embeddings': 2048,
        },
        entries=[
            *sizes(),
            head_dim(),
            rope(),
            biases('attention_bias', 'all'),
            activation('dense'),
            same('intermediate_size', 'dense.hidden'),
            same('mlp_bias', 'dense.use_bias'),
            *dense_stack(),
        ],
        rows=[
            *model_rows(),
            *attention_rows(),
            *network_rows(f'{_LAYER}.mlp', 'mlp'),
        ],
    )
)

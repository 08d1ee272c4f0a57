"""Granite-MoE, with and without shared experts."""

from moe.checkpoints.hf.common import (
    activation,
    attention_rows,
    biases,
    head_dim,
    model_rows,
    moe_sizes,
    sizes,
    softmax_router,
)
from moe.checkpoints.hf.family import Family, register
from moe.checkpoints.hf.fields import Entry, constant, same, value_of
from moe.checkpoints.hf.rope import rope
from moe.checkpoints.hf.tensors import row

_LAYER = 'model.layers.{layer}'
_MIXTURE = f'{_LAYER}.block_sparse_moe'


def _logit_scale() -> Entry:
    """Returns the entry of what logits are divided by."""
    name = 'logits_scaling'

    def write(model):
        return {name: float(f'{1 / model["logit_scale"]:.15g}')}

    return Entry((name,), lambda g: {'logit_scale': 1.0 / g[name]}, write)


def _shared() -> Entry:
    """Returns the entry of the shared network's width; 0 is none."""
    name = 'shared_intermediate_size'

    def read(given):
        if not given[name]:
            return {'moe.shared': None}
        return {
            'moe.shared.network.hidden': given[name],
            'moe.shared.gate': 'none',
        }

    return Entry(
        (name,),
        read,
        lambda m: {name: value_of(m, 'moe.shared.network.hidden') or 0},
    )


_DEFAULTS = {
    'tie_word_embeddings': False,
    'hidden_act': 'silu',
    'rope_theta': 10_000.0,
    'rms_norm_eps': 1e-6,
    'vocab_size': 32_000,
    'hidden_size': 4096,
    'intermediate_size': 11_008,
    'num_hidden_layers': 32,
    'num_attention_heads': 32,
    'num_local_experts': 8,
    'num_experts_per_tok': 2,
    'embedding_multiplier': 1.0,
    'logits_scaling': 1.0,
    'residual_multiplier': 1.0,
    'attention_multiplier': 1.0,
    'attention_bias': False,
    'max_position_embeddings': 2048,
}
_ENTRIES = [
    *sizes(),
    head_dim(),
    rope(),
    biases('attention_bias', 'all'),
    same('embedding_multiplier', 'embedding_scale'),
    same('residual_multiplier', 'residual_scale'),
    same('attention_multiplier', 'attention_scale'),
    _logit_scale(),
    *moe_sizes('num_local_experts', 'intermediate_size'),
    softmax_router(None),
    constant('moe_every', 1),
]
_ROWS = [
    *model_rows(),
    *attention_rows(),
    row(f'{_MIXTURE}.router.layer.weight', 'moe/router'),
    row(
        f'{_MIXTURE}.input_linear.weight',
        'moe/experts/gate',
        'moe/experts/up',
    ),
    row(f'{_MIXTURE}.output_linear.weight', 'moe/experts/down'),
]

GRANITE_MOE = register(
    Family(
        name='granitemoe',
        architecture='GraniteMoeForCausalLM',
        defaults=_DEFAULTS,
        aliases={'num_experts': 'num_local_experts'},
        entries=[*_ENTRIES, activation('moe.experts')],
        rows=_ROWS,
    )
)

GRANITE_MOE_SHARED = register(
    Family(
        name='granitemoeshared',
        architecture='GraniteMoeSharedForCausalLM',
        defaults={**_DEFAULTS, 'shared_intermediate_size': 0},
        aliases={'num_experts': 'num_local_experts'},
        entries=[
            *_ENTRIES,
            activation('moe.experts', 'moe.shared.network'),
            _shared(),
        ],
        rows=[
            *_ROWS,
            row(
                f'{_LAYER}.shared_mlp.input_linear.weight',
                'moe/shared/gate',
                'moe/shared/up',
            ),
            row(f'{_LAYER}.shared_mlp.output_linear.weight', 'moe/shared/down'),
        ],
    )
)

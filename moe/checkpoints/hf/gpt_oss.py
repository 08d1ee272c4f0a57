"""gpt-oss: attention sinks, windows in every other layer, clamped SwiGLU."""

from moe.checkpoints.hf.common import (
    attention_rows,
    biases,
    head_dim,
    model_rows,
    moe_sizes,
    sizes,
    softmax_router,
)
from moe.checkpoints.hf.family import Family, register
from moe.checkpoints.hf.fields import Entry, constant, unread, value_of
from moe.checkpoints.hf.rope import rope
from moe.checkpoints.hf.tensors import TABLE, VECTOR, Layout, row
from moe.checkpoints.hf.windows import layer_types

_MIXTURE = 'model.layers.{layer}.mlp'
_ACTIVATION = 'moe.experts.activation'


def _clamped() -> Entry:
    """Returns the entry of the experts' activation."""
    options = {'limit': 'swiglu_limit', 'alpha': 'swiglu_alpha'}

    def read(given):
        section = {ours: given[theirs] for ours, theirs in options.items()}
        return {_ACTIVATION: {'name': 'clamped_swiglu', **section}}

    def write(model):
        return {
            theirs: value_of(model, f'{_ACTIVATION}.{ours}')
            for ours, theirs in options.items()
        }

    return Entry(tuple(options.values()), read, write)


GPT_OSS = register(
    Family(
        name='gpt_oss',
        architecture='GptOssForCausalLM',
        defaults={
            'tie_word_embeddings': False,
            'num_hidden_layers': 36,
            'num_local_experts': 128,
            'vocab_size': 201_088,
            'hidden_size': 2880,
            'intermediate_size': 2880,
            'head_dim': 64,
            'num_attention_heads': 64,
            'num_key_value_heads': 8,
            'sliding_window': 128,
            'max_position_embeddings': 131_072,
            'rms_norm_eps': 1e-5,
            'num_experts_per_tok': 4,
            'swiglu_alpha': 1.702,
            'swiglu_limit': 7.0,
            'attention_bias': True,
            'rope_theta': 150_000.0,
            'rope_parameters': {
                'rope_type': 'yarn',
                'factor': 32.0,
                'beta_fast': 32.0,
                'beta_slow': 1.0,
                'truncate': False,
                'original_max_position_embeddings': 4096,
            },
        },
        aliases={
            'num_experts': 'num_local_experts',
            'experts_per_token': 'num_experts_per_tok',
        },
        entries=[
            *sizes(),
            head_dim(always=True),
            rope(),
            biases('attention_bias', 'all'),
            constant('attention_sinks', True),
            layer_types(lambda given, layer: not layer % 2),
            unread('hidden_act'),
            _clamped(),
            constant('moe.experts.use_bias', True),
            constant('moe.router_bias', True),
            *moe_sizes('num_local_experts', 'intermediate_size'),
            softmax_router(None),
            constant('moe_every', 1),
        ],
        rows=[
            *model_rows(),
            *attention_rows(),
            row(f'{_MIXTURE}.router.weight', 'moe/router'),
            row(f'{_MIXTURE}.router.bias', 'moe/router_bias', layout=VECTOR),
            row(
                f'{_MIXTURE}.experts.gate_up_proj',
                'moe/experts/gate',
                'moe/experts/up',
                layout=Layout(transposed=False, interleaved=True),
            ),
            row(
                f'{_MIXTURE}.experts.gate_up_proj_bias',
                'moe/experts/gate_bias',
                'moe/experts/up_bias',
                layout=Layout(inputs=0, interleaved=True),
            ),
            row(
                f'{_MIXTURE}.experts.down_proj',
                'moe/experts/down',
                layout=TABLE,
            ),
            row(
                f'{_MIXTURE}.experts.down_proj_bias',
                'moe/experts/down_bias',
                layout=VECTOR,
            ),
        ],
    )
)

"""DeepSeek-V3 with Moonlight and Kimi-K2, DeepSeek-V2-Lite, and GLM-4.5."""

from moe.checkpoints.hf.common import (
    HEADS_IN,
    HEADS_OUT,
    activation,
    attention_rows,
    biases,
    check_several,
    first_dense,
    head_dim,
    model_rows,
    moe_sizes,
    network_rows,
    sizes,
)
from moe.checkpoints.hf.family import Family, register
from moe.checkpoints.hf.fields import (
    Entry,
    fixed,
    same,
    unread,
    value_of,
)
from moe.checkpoints.hf.rope import rope
from moe.checkpoints.hf.tensors import STATE, VECTOR, row
from moe.config import ConfigError

_LAYER = 'model.layers.{layer}'
_ATTENTION = f'{_LAYER}.self_attn'


def _sigmoid_router() -> Entry:
    """Returns the entry of scores by sigmoid, chosen with a bias, in groups."""
    groups, chosen = 'n_group', 'topk_group'
    renormalize, scale = 'norm_topk_prob', 'routed_scaling_factor'

    def read(given):
        check_several(given, given[renormalize])
        router = {
            'name': 'sigmoid',
            'renormalize': bool(given[renormalize]),
            'scale': given[scale],
        }
        count = given[groups] or 1
        if given[chosen] != count and count > 1:
            router |= {
                'name': 'group_limited',
                'expert_groups': count,
                'chosen_groups': given[chosen],
                'scored_experts': 2,
            }
        return {f'moe.router.{name}': v for name, v in router.items()}

    def write(model):
        router = value_of(model, 'moe.router') or {}
        return {
            groups: router.get('expert_groups', 1),
            chosen: router.get('chosen_groups', 1),
            renormalize: router.get('renormalize', True),
            scale: router.get('scale', 1.0),
        }

    return Entry((groups, chosen, renormalize, scale), read, write)


def _greedy_router() -> Entry:
    """Returns the entry of DeepSeek-V2-Lite's softmax router."""
    scale, method = 'routed_scaling_factor', 'topk_method'

    def read(given):
        wanted = {method: 'greedy', scale: 1.0, 'norm_topk_prob': False}
        for name, value in wanted.items():
            if given.get(name, value) != value:
                raise ConfigError(name, given[name], repr(value))
        return {'moe.router.name': 'top_k', 'moe.router.renormalize': False}

    def write(model):
        del model
        return {method: 'greedy', scale: 1.0, 'norm_topk_prob': False}

    names = (scale, method, 'norm_topk_prob', 'n_group', 'topk_group')
    return Entry(names, read, write)


def _shared() -> Entry:
    """Returns the entry of shared experts, which are one wide network."""

    def read(given):
        count = given['n_shared_experts']
        if not count:
            return {'moe.shared': None}
        width = count * given['moe_intermediate_size']
        return {'moe.shared.network.hidden': width, 'moe.shared.gate': 'none'}

    def write(model):
        width = value_of(model, 'moe.shared.network.hidden') or 0
        one = value_of(model, 'moe.experts.hidden')
        return {'n_shared_experts': width // one}

    return Entry(('n_shared_experts',), read, write)


def _latent() -> list[Entry]:
    """Returns the entries of multi-head latent attention."""

    def read_heads(given):
        heads = given['num_attention_heads']
        keys = given.get('num_key_value_heads') or heads
        if keys != heads:
            allowed = f'num_attention_heads ({heads})'
            raise ConfigError('num_key_value_heads', keys, allowed)
        return {'num_kv_heads': heads}

    return [
        Entry(('num_key_value_heads',), read_heads, lambda _: {}),
        same('kv_lora_rank', 'latent.kv_rank'),
        same('q_lora_rank', 'latent.q_rank'),
        same('qk_nope_head_dim', 'latent.nope_dim'),
        same('qk_rope_head_dim', 'latent.rope_dim'),
        same('v_head_dim', 'latent.value_dim'),
        fixed('attention_bias', False),
        # They follow from those above.
        unread('head_dim', 'qk_head_dim'),
    ]


# Predicts further tokens; what is left out of it is told.
_MTP = unread('num_nextn_predict_layers', 'num_mtp_layers')

_MIXTURE_ROWS = [
    row(f'{_LAYER}.mlp.gate.weight', 'moe/router'),
    row(
        f'{_LAYER}.mlp.gate.e_score_correction_bias',
        f'{STATE}moe/bias',
        layout=VECTOR,
    ),
    *network_rows(f'{_LAYER}.mlp.experts.{{expert}}', 'moe/experts'),
    *network_rows(f'{_LAYER}.mlp.shared_experts', 'moe/shared'),
    *network_rows(f'{_LAYER}.mlp', 'mlp'),
]
_LATENT_ROWS = [
    *model_rows(),
    row(
        f'{_LAYER}.input_layernorm.weight',
        'attention_norm/scale',
        layout=VECTOR,
    ),
    row(
        f'{_LAYER}.post_attention_layernorm.weight',
        'mlp_norm/scale',
        layout=VECTOR,
    ),
    row(f'{_ATTENTION}.q_proj.weight', 'attention/query', layout=HEADS_IN),
    row(f'{_ATTENTION}.q_a_proj.weight', 'attention/query_down'),
    row(
        f'{_ATTENTION}.q_a_layernorm.weight',
        'attention/query_down_norm/scale',
        layout=VECTOR,
    ),
    row(f'{_ATTENTION}.q_b_proj.weight', 'attention/query_up', layout=HEADS_IN),
    row(
        f'{_ATTENTION}.kv_a_proj_with_mqa.weight',
        'attention/key_value_down',
        'attention/key_rope',
    ),
    row(
        f'{_ATTENTION}.kv_a_layernorm.weight',
        'attention/key_value_norm/scale',
        layout=VECTOR,
    ),
    row(
        f'{_ATTENTION}.kv_b_proj.weight',
        'attention/key_up',
        'attention/value_up',
        layout=HEADS_IN,
    ),
    row(f'{_ATTENTION}.o_proj.weight', 'attention/out', layout=HEADS_OUT),
]
_NETWORKS = ('dense', 'moe.experts', 'moe.shared.network')
_DEFAULTS = {
    'tie_word_embeddings': False,
    'hidden_act': 'silu',
    'rope_theta': 10_000.0,
    'rms_norm_eps': 1e-6,
    'kv_lora_rank': 512,
    'q_lora_rank': 1536,
    'qk_rope_head_dim': 64,
    'qk_nope_head_dim': 128,
    'v_head_dim': 128,
}

DEEPSEEK_V3 = register(
    Family(
        name='deepseek_v3',
        architecture='DeepseekV3ForCausalLM',
        other_types=('kimi_k2',),
        defaults={
            **_DEFAULTS,
            'vocab_size': 129_280,
            'hidden_size': 7168,
            'intermediate_size': 18_432,
            'moe_intermediate_size': 2048,
            'num_hidden_layers': 61,
            'num_attention_heads': 128,
            'n_shared_experts': 1,
            'n_routed_experts': 256,
            'routed_scaling_factor': 2.5,
            'n_group': 8,
            'topk_group': 4,
            'num_experts_per_tok': 8,
            'first_k_dense_replace': 3,
            'norm_topk_prob': True,
            'rope_interleave': True,
            'max_position_embeddings': 4096,
        },
        aliases={'num_local_experts': 'n_routed_experts'},
        entries=[
            *sizes(),
            *_latent(),
            rope(interleave='rope_interleave', mscale=True),
            activation(*_NETWORKS),
            same('intermediate_size', 'dense.hidden'),
            *moe_sizes('n_routed_experts', 'moe_intermediate_size'),
            _sigmoid_router(),
            _shared(),
            first_dense(),
            fixed('scoring_func', 'sigmoid'),
            fixed('topk_method', 'noaux_tc'),
            fixed('moe_layer_freq', 1),
            _MTP,
        ],
        rows=[*_LATENT_ROWS, *_MIXTURE_ROWS],
    )
)

DEEPSEEK_V2 = register(
    Family(
        name='deepseek_v2',
        architecture='DeepseekV2ForCausalLM',
        defaults={
            **_DEFAULTS,
            'vocab_size': 102_400,
            'hidden_size': 4096,
            'intermediate_size': 11_008,
            'moe_intermediate_size': 1407,
            'num_hidden_layers': 32,
            'num_attention_heads': 32,
            'n_shared_experts': 2,
            'n_routed_experts': 64,
            'first_k_dense_replace': 0,
            'max_position_embeddings': 2048,
        },
        aliases={'num_experts': 'n_routed_experts'},
        entries=[
            *sizes(),
            *_latent(),
            rope(interleave=True, mscale=True),
            activation(*_NETWORKS),
            same('intermediate_size', 'dense.hidden'),
            *moe_sizes('n_routed_experts', 'moe_intermediate_size'),
            _greedy_router(),
            _shared(),
            first_dense(),
            fixed('scoring_func', 'softmax'),
            fixed('moe_layer_freq', 1),
            fixed('mlp_bias', False),
        ],
        rows=[*_LATENT_ROWS, *_MIXTURE_ROWS],
    )
)

GLM4_MOE = register(
    Family(
        name='glm4_moe',
        architecture='Glm4MoeForCausalLM',
        defaults={
            'tie_word_embeddings': False,
            'hidden_act': 'silu',
            'rope_theta': 10_000.0,
            'partial_rotary_factor': 0.5,
            'rms_norm_eps': 1e-5,
            'vocab_size': 151_552,
            'hidden_size': 4096,
            'intermediate_size': 10_944,
            'moe_intermediate_size': 1408,
            'num_hidden_layers': 46,
            'num_attention_heads': 96,
            'num_key_value_heads': 8,
            'num_experts_per_tok': 8,
            'n_shared_experts': 1,
            'n_routed_experts': 128,
            'routed_scaling_factor': 1.0,
            'n_group': 1,
            'topk_group': 1,
            'first_k_dense_replace': 1,
            'norm_topk_prob': True,
            'use_qk_norm': False,
            'attention_bias': False,
            'max_position_embeddings': 131_072,
        },
        aliases={'num_local_experts': 'n_routed_experts'},
        entries=[
            *sizes(),
            head_dim(),
            rope(partial=True),
            biases('attention_bias', 'qkv'),
            Entry(
                ('use_qk_norm',),
                lambda g: {'qk_norm': 'head' if g['use_qk_norm'] else 'none'},
                lambda m: {'use_qk_norm': m['qk_norm'] != 'none'},
            ),
            activation(*_NETWORKS),
            same('intermediate_size', 'dense.hidden'),
            *moe_sizes('n_routed_experts', 'moe_intermediate_size'),
            _sigmoid_router(),
            _shared(),
            first_dense(),
            _MTP,
        ],
        rows=[*model_rows(), *attention_rows(), *_MIXTURE_ROWS],
    )
)

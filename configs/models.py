"""Published mixtures at their published sizes, to plan and to train.

    python -m launch.plan --config=configs/models.py:mixtral_8x7b \
        --topology=v5p:4x4x8 --config.mesh.fsdp=32 --config.mesh.expert=4

Experts drop what is beyond their mean load (capacity factor 1), tokens travel
to them along `expert`. Attention, norms and positions are this
library's: grouped-query attention of heads `d_model / num_heads` wide, without
norms of queries and keys. Where the published model has others:
  mixtral_8x7b    none. arXiv 2401.04088: 46.7B parameters, 12.9B active.
  mixtral_8x22b   none. mistral.ai/news/mixtral-8x22b: 141B, 39B.
  olmoe_1b_7b     norms of queries and keys. arXiv 2409.02060: 6.9B, 1.3B.
  qwen3_30b_a3b   the same, and heads 128 wide (here 64: 0.45B fewer
                  parameters). arXiv 2505.09388: 30.5B, 3.3B.
  deepseek_v3     latent attention (here 56 heads, 0.018B more a layer), and
                  three dense layers before the 58 mixtures (here none): its
                  mixture dimensions over standard attention. arXiv 2412.19437:
                  671B, 37B.
  ten_trillion    ours: what fits on a whole v5p pod. 9.9T, 197B.
"""

import ml_collections

SEQ_LEN = 4096

# d_model, num_layers, num_heads, num_kv_heads, vocab_size; E, K, F, F of the
# shared expert; sequences a step.
SIZES = {
    'mixtral_8x7b': (4096, 32, 32, 8, 32_000, 8, 2, 14_336, 0, 512),
    'mixtral_8x22b': (6144, 56, 48, 8, 32_000, 8, 2, 16_384, 0, 1024),
    'olmoe_1b_7b': (2048, 16, 16, 16, 50_304, 64, 8, 1024, 0, 256),
    'qwen3_30b_a3b': (2048, 48, 32, 4, 151_936, 128, 8, 768, 0, 512),
    'deepseek_v3': (
        *(7168, 58, 56, 56, 129_280),
        *(256, 8, 2048, 2048, 4096),
    ),
    'ten_trillion': (
        *(12_288, 64, 96, 8, 131_072),
        *(512, 8, 8192, 8192, 6144),
    ),
}
# Where it is not top_k with renormalised gates.
ROUTERS: dict[str, dict] = {
    'olmoe_1b_7b': {'name': 'top_k', 'renormalize': False},
    'deepseek_v3': {
        'name': 'group_limited',
        'expert_groups': 8,
        'chosen_groups': 4,
        'scale': 2.5,
    },
    'ten_trillion': {'name': 'sigmoid'},
}


def get_config(variant: str = 'mixtral_8x7b') -> ml_collections.ConfigDict:
    if variant not in SIZES:
        raise ValueError(f'a variant among {", ".join(SIZES)}')
    width, layers, heads, kv_heads, vocab, *mixture = SIZES[variant]
    experts, k, hidden, shared, batch = mixture
    model = {
        'vocab_size': vocab,
        'd_model': width,
        'num_layers': layers,
        'num_heads': heads,
        'num_kv_heads': kv_heads,
        'dense': {'hidden': hidden},
        'rope': {'theta': 1e6},
        'norm_epsilon': 1e-5,
        'attention': 'splash',
        'dtype': 'bfloat16',
        'remat': 'hidden',
        'moe': {
            'num_experts': experts,
            'experts': {'hidden': hidden},
            'shared': {'network': {'hidden': shared}} if shared else None,
            'router': {**ROUTERS.get(variant, {'name': 'top_k'}), 'k': k},
            'dispatcher': 'indexed',
            'communication': 'all_to_all',
            'capacity': {'name': 'factor', 'train': 1.0},
        },
    }
    return ml_collections.ConfigDict(
        {
            'workload': 'lm',
            'steps': 100_000,
            'model': model,
            'data': {'seq_len': SEQ_LEN, 'batch_size': batch},
            'optimizer': {
                'learning_rate': 3e-4,
                'schedule': {'warmup_steps': 2000},
            },
            'sample_prompt': '',
            'sample_length': 0,
        }
    )

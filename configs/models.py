"""Published mixtures with their own architectures, to plan and to train.

    python -m launch.plan --config=configs/models.py:mixtral_8x7b \
        --topology=v5p:4x4x8 --config.mesh.fsdp=32 --config.mesh.expert=4

The architecture is read from the published `config.json`, see
`configs/published.py`, by what imports checkpoints; `ten_trillion` is ours,
what fits on a whole v5p pod. Layers of multi-token prediction are left out.
The training is ours: experts drop what is beyond their mean load (capacity
factor 1), tokens travel to them along `expert`.
"""

import ml_collections

from configs.published import CONFIGS
from moe.checkpoints.hf.families import family_of

SEQ_LEN = 4096

# Sequences a step.
BATCH_SIZES = {
    'mixtral_8x7b': 512,
    'mixtral_8x22b': 1024,
    'olmoe_1b_7b': 256,
    'qwen3_30b_a3b': 512,
    'qwen3_235b_a22b': 2048,
    'qwen1_5_moe_a2_7b': 256,
    'glm_4_5': 2048,
    'glm_4_5_air': 1024,
    'granite_1b_a400m': 256,
    'granite_3b_a800m': 256,
    'deepseek_v3': 4096,
    'kimi_k2': 4096,
    'moonlight': 512,
    'deepseek_v2_lite': 512,
    'gpt_oss_20b': 512,
    'gpt_oss_120b': 1024,
    'ten_trillion': 6144,
}
TEN_TRILLION = {
    'vocab_size': 131_072,
    'd_model': 12_288,
    'num_layers': 64,
    'num_heads': 96,
    'num_kv_heads': 8,
    'norm_epsilon': 1e-5,
    'rope': {'theta': 1e6},
    'moe': {
        'num_experts': 512,
        'experts': {'hidden': 8192},
        'shared': {'network': {'hidden': 8192}},
        'router': {'name': 'sigmoid', 'k': 8},
    },
}


def architecture(variant: str) -> dict:
    """Returns the section `model`, as far as it is published.

    Args:
      variant: name of the model.
    """
    if variant == 'ten_trillion':
        return dict(TEN_TRILLION)
    given = CONFIGS[variant]
    return family_of(given).read_config(given)


def get_config(variant: str = 'mixtral_8x7b') -> ml_collections.ConfigDict:
    if variant not in BATCH_SIZES:
        raise ValueError(f'a variant among {", ".join(BATCH_SIZES)}')
    model = architecture(variant)
    mixture = {
        'dispatcher': 'indexed',
        'communication': 'all_to_all',
        'capacity': {'name': 'factor', 'train': 1.0},
    }
    return ml_collections.ConfigDict(
        {
            'workload': 'lm',
            'steps': 100_000,
            'model': {
                **model,
                'attention': 'splash',
                'dtype': 'bfloat16',
                'remat': 'hidden',
                'moe': {**model['moe'], **mixture},
            },
            'data': {
                'seq_len': SEQ_LEN,
                'batch_size': BATCH_SIZES[variant],
            },
            'optimizer': {
                'learning_rate': 3e-4,
                'schedule': {'warmup_steps': 2000},
            },
            'sample_prompt': '',
            'sample_length': 0,
        }
    )

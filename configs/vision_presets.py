"""Vision transformers of the published sizes, dense and with mixtures.

    python train.py --config=configs/vision_presets.py:vmoe_b16 \
        --config.data.source.name=npz --config.data.source.files=images.npz \
        --config.model.num_classes=100 --workdir=runs/vmoe_b16

Variants are MODEL_SIZE, with the sizes s32, s16, b32, b16, l32, l16 and h14:
  vit        no mixture (2010.11929).
  vmoe       V-MoE, mixtures in every second block (2106.05974).
  vmoe_last  V-MoE, mixtures in the last two of these (the last five of h14).
  soft       Soft MoE, one slot an expert, in the second half (2308.00951).

The settings are those of the papers' public configs (google-research/vmoe,
`vmoe/configs/vmoe_paper/common.py`, `vmoe/projects/soft_moe/configs`), on
images of 224 x 224 x 3 pixels: V-MoE's S has 8 blocks of width 512, the S of
the others 12 of width 384. What differs: tokens compete for capacity within
their image, not among those of 8 (`model.moe.num_groups` is the number of
groups in a batch); the importance loss sums the gates of the chosen experts;
Soft MoE's queries and keys have an RMSNorm, not a LayerNorm without bias; there
is no decay of its head that is stronger than that of the rest.
"""

import math
from typing import Any

from ml_collections import ConfigDict

IMAGE_SIZE = 224
BATCH_SIZE = 4096
EXPERTS = 32  # of V-MoE

# Blocks, width, heads, hidden width, and peak learning rate by patch size.
SIZES: dict[str, tuple[int, int, int, int, dict[int, float]]] = {
    's': (12, 384, 6, 1536, {32: 1e-3, 16: 1e-3}),
    'b': (12, 768, 12, 3072, {32: 8e-4, 16: 8e-4}),
    'l': (24, 1024, 16, 4096, {32: 6e-4, 16: 4e-4}),
    'h': (32, 1280, 16, 5120, {14: 3e-4}),
}
VMOE_SMALL = (8, 512, 8, 2048, SIZES['s'][-1])

MODELS = ('vit', 'vmoe', 'vmoe_last', 'soft')
VARIANTS = tuple(
    f'{model}_{size}{patch}'
    for model in MODELS
    for size, (*_, rates) in SIZES.items()
    for patch in rates
)


def get_config(variant: str = 'vmoe_s32') -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f'a variant among {", ".join(VARIANTS)}')
    model, _, size = variant.rpartition('_')
    letter, patch = size[0], int(size[1:])
    is_vmoe = model.startswith('vmoe')
    small = is_vmoe and letter == 's'
    layers, width, heads, hidden, rates = VMOE_SMALL if small else SIZES[letter]
    network = {'hidden': hidden, 'activation': {'name': 'gelu'}}
    network |= {'use_bias': True}
    section: dict[str, Any] = {
        'image_size': IMAGE_SIZE,
        'channels': 3,
        'patch_size': patch,
        'num_classes': 1000,
        'pool': 'mean' if model == 'soft' else 'token',
        'd_model': width,
        'num_layers': layers,
        'num_heads': heads,
        'num_kv_heads': heads,
        'attention_bias': 'all',
        'norm': 'layer',
        'norm_epsilon': 1e-6,
        'dense': network,
        'dtype': 'bfloat16',
    }
    config = ConfigDict(
        {
            'workload': 'vision',
            'steps': 100_000,
            'data': {'batch_size': BATCH_SIZE},
            'optimizer': {
                'name': 'adamw',
                'learning_rate': rates[patch],
                'b2': 0.999,
                'weight_decay': 0.1,
                'schedule': {
                    'name': 'linear',
                    'warmup_steps': 10_000,
                    'final_fraction': 1e-5 / rates[patch],
                },
            },
        }
    )
    if is_vmoe:
        last = {'h': 5}.get(letter, 2) if model == 'vmoe_last' else None
        section |= {'moe_every': 2, 'moe_last': last, 'moe': vmoe(network)}
        config.losses = {'importance': 0.005, 'load': 0.005}
    elif model == 'soft':
        section |= {'moe_last': layers // 2, 'moe': soft(network, patch)}
        section['qk_norm'] = 'head'
        config.optimizer.learning_rate = 1e-3
        config.optimizer.weight_decay = 0.03
        config.optimizer.schedule = {
            'name': 'inverse_sqrt',
            'warmup_steps': 10_000,
        }
        config.losses = {}
    else:
        section['moe_every'] = 0
        config.losses = {}
    config.model = section
    return config


def vmoe(network: dict[str, Any]) -> dict[str, Any]:
    """Returns the section `moe` of V-MoE.

    Args:
      network: the section of an expert.
    """
    return {
        'num_experts': EXPERTS,
        'experts': network,
        'router': {'name': 'top_k', 'k': 2, 'renormalize': False, 'noise': 1.0},
        'capacity': {'name': 'factor', 'train': 1.05, 'eval': 1.05},
    }


def soft(network: dict[str, Any], patch: int) -> dict[str, Any]:
    """Returns the section `moe` of Soft MoE.

    Args:
      network: the section of an expert.
      patch: pixels a side of a patch.
    """
    experts = 256 if patch == 14 else 128
    share = experts / (IMAGE_SIZE // patch) ** 2
    # Rounded down: slots are rounded up.
    factor = math.floor(share * 1e4) / 1e4
    router = {'name': 'soft', 'capacity_factor': factor}
    return {'num_experts': experts, 'experts': network, 'router': router}

"""A vision transformer with mixtures, on handwritten digits or any images.

    python train.py --config=configs/vision.py:vmoe --workdir=runs/vmoe
    python train.py --config=configs/vision.py \
        --config.data.source.name=npz --config.data.source.files=images.npz \
        --config.model.image_size=32 --config.model.channels=3 --workdir=DIR

Expected of the first on two CPU cores after 600 steps: a validation accuracy
of .90 to .92 on scikit-learn's digits, 8 x 8 pixels; `dense` comes to .91 to
.93.

Variants, with another router after a comma: `configs/vision.py:vmoe,sigmoid`.
All but `dense` have mixtures in every second block, and the same active FLOPs
a token:
  vmoe           noisy top-2 of 8 experts, capacity by confidence (2106.05974).
  expert_choice  experts take tokens (2202.09368).
  soft           Soft MoE (2308.00951).
  dense          no mixture.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import lm

VARIANTS: dict[str, dict[str, Any]] = {
    'vmoe': {
        'router': {'name': 'noisy_top_k', 'k': 2},
        'capacity': {'name': 'factor', 'train': 1.05, 'prioritized': True},
    },
    'expert_choice': {
        'router': {'name': 'expert_choice', 'capacity_factor': 2.0},
    },
    'soft': {'router': {'name': 'soft', 'capacity_factor': 2.0}},
    'dense': {},
}


def get_config(variant: str = 'vmoe') -> ConfigDict:
    name, router = lm.chosen(variant, VARIANTS)
    moe = {'num_experts': 8, 'experts': {'hidden': 64}, **VARIANTS[name]}
    moe |= {'router': {'name': router}} if router else {}
    config = ConfigDict(
        {
            'workload': 'vision',
            'model': {
                'd_model': 64,
                'num_heads': 4,
                'num_kv_heads': 4,
                'dense': {'hidden': 128},
                'moe_every': 0 if name == 'dense' else 2,
                'moe': moe,
            },
            'eval_every': 200,
        }
    )
    if name == 'vmoe':
        config.losses = {'importance': 0.005, 'load': 0.005}
    return config

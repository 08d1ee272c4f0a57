"""A vision transformer with mixtures, on handwritten digits or any images.

    python train.py --config=configs/vision.py:vmoe --workdir=runs/vmoe
    python train.py --config=configs/vision.py --config.data.files=images.npz \
        --config.model.image_size=32 --config.model.channels=3 --workdir=DIR

Without `data.files` the images are scikit-learn's digits, 8 x 8 pixels. All
variants but `dense` have mixtures in every second block, and the same active
FLOPs a token.

Variants, with another router after a comma: `configs/vision.py:vmoe,sigmoid`:
  vmoe           noisy top-2 of 8 experts, slots by confidence (2106.05974).
  expert_choice  experts take tokens (2202.09368).
  soft           Soft MoE (2308.00951).
  dense          no mixture.
"""

import ml_collections

from configs import lm

VARIANTS = ('vmoe', 'expert_choice', 'soft', 'dense')


def get_config(variant: str = 'vmoe') -> ml_collections.ConfigDict:
    variant, other = lm.chosen(variant, VARIANTS)
    config = ml_collections.ConfigDict(
        {'workload': 'vision', 'model': {'moe': {}}, 'optimizer': {}}
    )
    config.steps = 600

    model = config.model
    model.image_size = 8  # rows and columns, pixels
    model.channels = 1
    model.patch_size = 2  # rows and columns of a patch, pixels
    model.num_classes = 10
    model.d_model = 64
    model.num_heads = 4
    model.num_kv_heads = 4
    model.dense = {'hidden': 128}
    model.rope_theta = None  # positions are learned
    model.moe_every = 2

    moe = model.moe
    moe.num_experts = 8
    moe.experts = {'hidden': 64}

    config.data = data = ml_collections.ConfigDict()
    data.files = ''  # an .npz with x and y; '' is the digits
    data.batch_size = 64  # images a step, over all hosts
    data.val_fraction = 0.25  # share of the images kept for validation
    data.shift = 1  # training images are moved by up to so many pixels

    config.optimizer.learning_rate = 3e-3
    config.eval_every = 200
    config.checkpoint_every = 300

    config.losses = {'load_balance': 0.01, 'router_z': 0.001}
    if variant == 'vmoe':
        moe.router = {'name': 'noisy_top_k', 'k': 2}
        moe.dispatcher = 'indexed'
        moe.capacity = {'name': 'factor', 'train': 1.05, 'prioritized': True}
        config.losses = ml_collections.ConfigDict(
            {'importance': 0.005, 'load': 0.005}
        )
    elif variant == 'expert_choice':
        moe.router = {'name': 'expert_choice', 'capacity_factor': 2.0}
        moe.dispatcher = 'indexed'
    elif variant == 'soft':
        moe.router = {'name': 'soft', 'capacity_factor': 2.0}
    elif variant == 'dense':
        model.moe_every = 0
    if other:
        moe.router = {'name': other}
    return config

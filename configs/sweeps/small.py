"""The language model that the sweeps here change: a minute on one core.

Two layers of 16 experts on the text of `configs/lm.py:quickstart`.
"""

import ml_collections

from configs import lm


def get_config(router: str = 'top_k') -> ml_collections.ConfigDict:
    config = lm.get_config(f'quickstart,{router}')
    config.steps = 400
    config.model.d_model = 64
    config.model.num_layers = 2
    config.model.d_ff = 128
    config.model.moe.num_experts = 16
    config.model.moe.d_ff = 64
    config.data.batch_size = 16
    config.data.val_fraction = 0.01
    config.log_every = 20
    config.eval_every = 100
    config.checkpoint_every = 200
    config.keep_checkpoints = 1
    config.sample_length = 0  # no sample: only the figures matter
    return config

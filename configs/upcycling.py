"""A small dense model that is upcycled, and the mixture that it becomes.

    python train.py --config=configs/upcycling.py:dense --workdir=runs/dense

Two layers on the text of `configs/lm.py:quickstart`; see
`docs/how-to/upcycle-a-dense-model.md`.

Variants:
  dense    800 steps at a constant learning rate, with a checkpoint after 400.
  mixture  16 experts, top 2, of the same active FLOPs a token: 8 copies of the
           dense network, each in 2 parts.
"""

from ml_collections import ConfigDict

from configs.sweeps import small

VARIANTS = {'dense': 0, 'mixture': 1}


def get_config(variant: str = 'dense') -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f'a variant among {", ".join(VARIANTS)}')
    config = small.get_config()
    config.steps = 800
    config.model.dense = {'hidden': 256}
    config.model.moe.experts.hidden = 128
    config.model.moe_every = VARIANTS[variant]
    config.optimizer = {'schedule': {'name': 'constant', 'warmup_steps': 50}}
    config.checkpoint_every = 400
    config.keep_checkpoints = 2
    return config

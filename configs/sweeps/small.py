"""The language model that the sweeps here change: a minute on one core.

Two layers of 16 experts on the text of `configs/lm.py:quickstart`.
"""

import ml_collections


def get_config(router: str = 'top_k') -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            'workload': 'lm',
            'steps': 400,
            'model': {
                'd_model': 64,
                'num_layers': 2,
                'dense': {'hidden': 128},
                'moe': {
                    'num_experts': 16,
                    'experts': {'hidden': 64},
                    'router': {'name': router},
                },
            },
            'data': {'batch_size': 16, 'source': {'val_fraction': 0.01}},
            'log_every': 20,
            'eval_every': 100,
            'checkpoint_every': 200,
            'keep_checkpoints': 1,
            'sample_length': 0,  # no sample: only the figures matter
        }
    )

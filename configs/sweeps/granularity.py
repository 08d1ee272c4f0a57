"""Experts split finer: more of them and more a token, each narrower.

    python -m launch.sweep --config=configs/sweeps/granularity.py --workdir=DIR

K x width and number x width stay, and so do a token's FLOPs in the experts and
their parameters; only the router grows with the number. Two seeds.
"""

from configs.sweeps import small

get_config = small.get_config

_WIDTH, _TOTAL = 128, 2048  # a token's, and of all experts together


def sweep():
    for k in (1, 2, 4, 8):
        for seed in range(2):
            yield {
                'model.moe.router.k': k,
                'model.moe.num_experts': _TOTAL * k // _WIDTH,
                'model.moe.experts.hidden': _WIDTH // k,
                'seed': seed,
            }

"""How many experts, at the same active FLOPs a token: 8 to 64, two seeds.

    python -m launch.sweep --config=configs/sweeps/experts.py --workdir=DIR

A token has two experts of width 64 whatever their number.
"""

from configs.sweeps import small

get_config = small.get_config


def sweep():
    for num_experts in (8, 16, 32, 64):
        for seed in range(2):
            yield {'model.moe.num_experts': num_experts, 'seed': seed}

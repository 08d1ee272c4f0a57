"""Which router: two experts of sixteen by each, dropless, two seeds.

    python -m launch.sweep --config=configs/sweeps/routers.py --workdir=DIR

All with the balance loss where it reaches them; `sigmoid` has its bias too.
"""

from configs.sweeps import small

get_config = small.get_config

_ROUTERS = ('top_k', 'top2', 'noisy_top_k', 'sigmoid', 'sinkhorn', 'hash')


def sweep():
    for name in _ROUTERS:
        for seed in range(2):
            yield {'model.moe.router': {'name': name}, 'seed': seed}

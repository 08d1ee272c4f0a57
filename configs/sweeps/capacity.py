"""Capacity factor by router: what dropping in training costs, two seeds.

    python -m launch.sweep --config=configs/sweeps/capacity.py --workdir=DIR

`sigmoid` evens the load out by a bias as well as by the balance loss. Nothing
is dropped in evaluation.
"""

from configs.sweeps import small


def get_config():
    config = small.get_config()
    config.model.moe.executor = 'indexed'
    return config


def get_hyper(hyper):
    routers = [{'name': name} for name in ('top_k', 'sigmoid')]
    return hyper.product(
        [
            hyper.sweep('model.moe.router', routers),
            hyper.sweep('model.moe.capacity_factor', (1.0, 1.5, None)),
            hyper.sweep('seed', range(2)),
        ]
    )

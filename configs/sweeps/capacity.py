"""Capacity factor by router: what dropping in training costs, two seeds.

    python -m launch.sweep --config=configs/sweeps/capacity.py --workdir=DIR

`sigmoid` evens the load out by a bias as well as by the balance loss. Nothing
is dropped in evaluation.
"""

from configs.sweeps import small


def get_config():
    config = small.get_config()
    config.model.moe.dispatcher = 'indexed'
    return config


def get_hyper(hyper):
    routers = [{'name': name} for name in ('top_k', 'sigmoid')]
    capacities: list = [
        {'name': 'factor', 'train': factor, 'eval': None}
        for factor in (1.0, 1.5)
    ]
    capacities.append('dropless')
    return hyper.product(
        [
            hyper.sweep('model.moe.router', routers),
            hyper.sweep('model.moe.capacity', capacities),
            hyper.sweep('seed', range(2)),
        ]
    )

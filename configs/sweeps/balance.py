"""Balance by a loss, by a bias, by both or by neither, two seeds.

    python -m launch.sweep --config=configs/sweeps/balance.py --workdir=DIR

The router is `sigmoid`, whose bias moves by `balance.rate` each step towards an
even load.
"""

from configs.sweeps import small


def get_config():
    return small.get_config(router='sigmoid')


def get_hyper(hyper):
    return hyper.product(
        [
            hyper.sweep('losses.load_balance', (0.0, 0.01)),
            hyper.sweep('model.moe.router.balance.rate', (0.0, 0.001, 0.01)),
            hyper.sweep('seed', range(2)),
        ]
    )

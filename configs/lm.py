"""A byte-level mixture-of-experts language model on real text.

    python train.py --config=configs/lm.py:quickstart --workdir=runs/quickstart

Expected on two CPU cores after 600 steps, about 4 minutes: 1.87 to 1.90
validation bits per byte on the standard library of Python 3.11, where `dense`
comes to 1.95 to 1.96 in about 3, with no expert above 1.5 times the uniform
load.

Variants, with another router after a comma: `configs/lm.py:top2,sigmoid`:
  quickstart  32 experts, top 2, dropless.
  dense       no mixture; a feed-forward of the same active FLOPs a token.
  switch      32 experts, top 1, capacity 1.25, input jitter.
  top2        32 experts, top 2, capacity 1.25 in groups of one sequence.
  dropless    128 narrow experts, top 8, dropless.

Here stands what differs from the defaults, which are in the code:
`python train.py --config=configs/lm.py --help=config` lists every field.
"""

from ml_collections import ConfigDict

from moe.config import options
from moe.routing import ROUTERS

VARIANTS = {
    'quickstart': {},
    # 2 experts of 128, and what the router multiplies.
    'dense': {'moe_every': 0, 'dense': {'hidden': 267}},
    'switch': {
        'moe': {
            'router': 'switch',
            'experts': {'hidden': 256},
            'jitter': 0.01,
            'capacity': 'factor',
        }
    },
    'top2': {'moe': {'capacity': 'factor'}},
    'dropless': {
        'moe': {
            'num_experts': 128,
            'experts': {'hidden': 32},
            'router': {'name': 'top_k', 'k': 8},
        }
    },
}


def get_config(variant: str = 'quickstart') -> ConfigDict:
    name, router = chosen(variant, VARIANTS)
    config = ConfigDict({'workload': 'lm', 'model': VARIANTS[name]})
    if name == 'quickstart' and not router:
        # Balanced in so few steps, without losing bits.
        config.losses = {'load_balance': 0.2, 'router_z': 0.001}
    if router:
        moe = config.model.get('moe', ConfigDict())
        config.model.moe = {**moe, 'router': other(router, moe)}
    return config


def chosen(variant: str, variants) -> tuple[str, str]:
    """Returns the variant and the router after its comma, '' without one."""
    name, _, router = variant.partition(',')
    if name not in variants or (router and router not in ROUTERS):
        names = ', '.join(variants), ', '.join(ROUTERS)
        raise ValueError(
            'a variant among {}, and a router among {}'.format(*names)
        )
    return name, router


def other(name: str, moe) -> dict:
    """Returns the section of another router, with the same K if it has one."""
    section = {'name': name}
    before = moe.get('router', 'top_k')
    before = {'name': before} if isinstance(before, str) else before
    k = before.get('k', options(ROUTERS[before['name']]).get('k', 1))
    if 'k' in options(ROUTERS[name]):
        section['k'] = k
    return section

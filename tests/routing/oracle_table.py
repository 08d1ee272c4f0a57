"""Every router against loops over tokens in float64: the table of the cells.

A row is a router with what its context holds beside the logits; a cell is its
options and whether it trains. Each cell is one program, compared on every seed
with no padding, with some, and with nothing but padding.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from moe.routing import ROUTERS
from tests.routing import oracle_loops as loops
from tests.routing.common import (
    FULL,
    KEY,
    PADDED,
    SEEDS,
    E,
    G,
    S,
    assert_routes,
    context,
    draw,
    run,
)

MASKS = (FULL, PADDED, np.zeros((G, S), bool))


class Row(NamedTuple):
    """A router, what it is compared with, and its cells.

    Attributes:
      router: its name.
      compare: takes (routing, draw, options), and returns what it expected.
      cells: pairs (train, options).
      given: a context's fields by seed and mask.
      logits: by seed.
      also: takes (results, options), where each result is a draw with its
        Routing and what was expected; asserts what else holds.
    """

    router: str
    compare: Callable
    cells: list
    given: Callable = lambda seed, mask: {}
    logits: Callable = draw
    also: Callable = lambda results, options: None


def over(*trains, **options):
    """The cross product, as cells."""
    names = list(options)
    return [
        (train, dict(zip(names, values, strict=True)))
        for train in trains
        for values in itertools.product(*options.values())
    ]


def by_token(oracle, tolerance=1e-6):
    """A comparison with `oracle(draw, g, s, **options)` of each token."""

    def compare(routing, draw, options):
        choose = lambda g, s: oracle(draw, g, s, **options)
        k = routing.weight.shape[1]  # the oracle has as many, or fails
        return assert_routes(routing, choose, draw.mask, k, tolerance)

    return compare


def compare_cell(name, train, options):
    """Compares one cell on all seeds and masks."""
    row, results = TABLE[name], []
    for seed, mask in itertools.product(SEEDS, MASKS):
        fields = row.given(seed, mask)
        drawn = loops.Draw(row.logits(seed), mask, train, fields)
        ctx = context(mask, key=KEY, train=train, **fields)
        routing = run(ROUTERS[row.router], drawn.logits, ctx, **options)
        desired = row.compare(routing, drawn, options)
        results.append((drawn, routing, desired))
    row.also(results, options)


def bias_of(values):
    return lambda seed, mask: {'bias': values}


TABLE = {
    'expert_choice': Row(
        'expert_choice',
        loops.expert_choice,
        over(False, capacity_factor=(2, 0.5, 9)),
    ),
    'group_limited': Row(
        'group_limited',
        by_token(loops.group_limited),
        [
            (
                False,
                {
                    'k': k,
                    'renormalize': renormalize,
                    'expert_groups': groups,
                    'chosen_groups': chosen,
                },
            )
            for k, groups, chosen, renormalize in (
                (4, 4, 2, True),
                (1, 4, 1, False),
                (2, 2, 1, True),
                (3, 8, 3, False),
            )
        ],
        bias_of(loops.BIAS_8),
        lambda seed: draw(seed, (G, S, 8)),
        loops.group_limited_also,
    ),
    'hash': Row(
        'hash',
        by_token(loops.hash_router),
        over(False, k=(1, 3), vocab_size=(32,), seed=(5,)),
        loops.token_ids,
    ),
    'noisy_top_k': Row(
        'noisy_top_k',
        by_token(lambda *args, **o: loops.noisy(*args, **o)[:2], 2e-6),
        over(True, False, k=(1, 2, E)),
        loops.noise_logits,
        also=loops.noisy_also,
    ),
    'random': Row('random', by_token(loops.random), over(True, False, k=(2,))),
    'relu': Row(
        'relu',
        by_token(loops.relu),
        over(False, k=(1, 2, E)),
        logits=loops.relu_logits,
        also=loops.relu_also,
    ),
    'round_robin': Row(
        'round_robin', by_token(loops.round_robin), over(False, k=(1, 2, E))
    ),
    'sigmoid': Row(
        'sigmoid',
        by_token(loops.sigmoid),
        over(False, k=(1, 2, E), renormalize=(True, False), scale=(1.0, 2.5)),
        bias_of(loops.BIAS),
    ),
    'sinkhorn': Row(
        'sinkhorn',
        by_token(loops.sinkhorn),
        over(True, k=(1, 2), iterations=(1, 8)) + over(False, k=(1, 2)),
        also=loops.sinkhorn_also,
    ),
    'switch': Row(
        'switch',
        by_token(loops.switch),
        over(True, False),
        also=loops.switch_also,
    ),
    'top2': Row(
        'top2',
        by_token(loops.top2),
        list(loops.policies()),
        also=loops.top2_also,
    ),
    'top2 with importance': Row(
        'top2',
        by_token(loops.top2),
        [
            (True, {'policy': policy, 'threshold': threshold})
            for policy, threshold in loops.THRESHOLD.items()
        ],
        loops.importance_of,
        also=loops.importance_also,
    ),
    'top_k': Row(
        'top_k',
        by_token(loops.top_k),
        over(False, k=(1, 2, E), renormalize=(True, False)),
        also=loops.logits_stay,
    ),
    'top_p': Row(
        'top_p',
        by_token(loops.top_p),
        [
            (False, {'p': 0.5, 'k': 4}),
            (False, {'p': 0.9, 'k': E}),
            (False, {'p': 0.7, 'k': 2}),
            (False, {'p': 0.5, 'k': 1}),
            (False, {'p': 0.0, 'k': 4}),
            (False, {'p': 1.0, 'k': 3}),
        ],
        also=loops.top_p_also,
    ),
}


# (row, train, options) of every cell.
CELLS = [
    (name, train, options)
    for name, row in TABLE.items()
    for train, options in row.cells
]

"""Routing by loops over tokens, in float64: nothing clever, to read by eye.

S tokens of one group, E experts, K choices, C slots.
"""

import collections
import fractions
import math

import numpy as np


def softmax(logits):
    """Softmax of one token's logits [E]."""
    powers = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    return powers / np.sum(powers)


def largest(values, k):
    """Indices of the k largest values, largest first, ties by lowest index."""
    return sorted(range(len(values)), key=lambda e: (-values[e], e))[:k]


def softmax_then_select(logits, k, renormalize):
    """Experts and gates of one token: probabilities of the k largest.

    A single gate is never renormalised.
    """
    probs = softmax(logits)
    chosen = largest(probs, k)
    gates = probs[chosen]
    if renormalize and k > 1:
        gates = gates / np.sum(gates)
    return chosen, gates


def select_then_softmax(logits, k):
    """Experts and gates of one token: softmax over the k largest logits."""
    chosen = largest(logits, k)
    return chosen, softmax(np.asarray(logits, np.float64)[chosen])


def capacity(group_size, num_experts, k, factor, minimum=1):
    """`clip(ceil(S*K*factor/E), minimum, S)`; the factor is a decimal string.

    Rational arithmetic throughout. No factor is room for every token.
    """
    if factor is None:
        return group_size
    wanted = fractions.Fraction(factor) * group_size * k / num_experts
    return min(max(math.ceil(wanted), minimum), group_size)


def slots(expert, live, priority=None):
    """Place of each assignment [N, M] of one group in its expert's queue.

    Row n before row n + 1 (all first choices before any second); in a row by
    falling priority [M], else from left to right. -1 where not live.
    """
    expert, live = np.asarray(expert), np.asarray(live)
    num_rows, num_columns = expert.shape
    taken = collections.Counter()
    place = np.full(expert.shape, -1)
    for n in range(num_rows):
        order = range(num_columns)
        if priority is not None:
            order = largest(priority, num_columns)
        for m in order:
            if live[n, m]:
                place[n, m] = taken[expert[n, m]]
                taken[expert[n, m]] += 1
    return place


def keep(expert, live, num_slots, priority=None):
    """Which assignments [N, M] of one group get one of C slots; None is all."""
    place = slots(expert, live, priority)
    if num_slots is None:
        return place >= 0
    return (place >= 0) & (place < num_slots)

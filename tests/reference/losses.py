"""Losses of gates and loads by loops, in float64.

Gates [G, S, E] are dense: 0 where an expert was not chosen.
"""

import math

import numpy as np


def normal_cdf(x):
    """Probability that a standard normal number is less than x."""
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def cv_squared(amounts, unbiased=True):
    """Variance over squared mean (plus 1e-10); 0 for one expert."""
    n = len(amounts)
    if n == 1:
        return 0.0
    mean = sum(amounts) / n
    squares = sum((a - mean) ** 2 for a in amounts)
    return squares / (n - 1 if unbiased else n) / (mean**2 + 1e-10)


def over_tokens(values, mask):
    """Sums [E] of values [G, S, E] over the live tokens."""
    total = np.zeros(values.shape[-1])
    for g, s in np.argwhere(mask):
        total += values[g, s]
    return total


def importance(gates, mask):
    """CV^2 of the experts' summed gates."""
    return cv_squared(over_tokens(gates, mask))


def load(chance, mask):
    """CV^2 of the experts' expected loads."""
    return cv_squared(over_tokens(chance, mask))


def l1(gates, mask):
    """Mean over live tokens of the sum of a token's gates; 0 of none."""
    return np.sum(over_tokens(gates, mask)) / max(np.sum(mask), 1)


def sequence_balance(probs, chosen, mask):
    """`E sum_e f_e p_e` in each sequence, and its mean over the sequences.

    Args:
      probs: [B, S, E].
      chosen: [B, S, E], how often the loss counts an expert as chosen.
      mask: [B, S], live tokens; sequences without any are left out.
    """
    values = []
    for b in range(len(mask)):
        counts, p = np.zeros(probs.shape[-1]), np.zeros(probs.shape[-1])
        for s in np.flatnonzero(mask[b]):
            counts += chosen[b, s]
            p += probs[b, s] / np.sum(mask[b])
        if np.any(mask[b]):
            f = counts / max(np.sum(counts), 1)
            values.append(probs.shape[-1] * np.sum(f * p))
    return np.mean(values) if values else 0.0

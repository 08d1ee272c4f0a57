"""What routers choose, where float64 probabilities are all 0 or 1 too.

Scores keep the order of the exact ones: they are logarithms in float64, or
sums of decimals, whose exponents go as far as `exp(-1e4)`.
"""

import collections
import decimal
import functools

import numpy as np

EXACT = decimal.Context(prec=60)


@functools.cache
def terms(logit, bias):
    """Numbers whose sum is `sigmoid(logit) + bias`: none rounds another off.

    Of a positive logit they are 1 and `-sigmoid(-logit)`.
    """
    power = EXACT.exp(decimal.Decimal(abs(logit)))
    small = EXACT.divide(1, EXACT.add(1, power))
    own = [decimal.Decimal(1), -small] if logit > 0 else [small]
    return [*own, decimal.Decimal(bias)]


def less(one, other):
    """The sign of the sum of the terms of the other, less that of the one."""
    left = collections.Counter(other)
    left.subtract(one)
    # What is large cancels before what is small comes.
    falling = sorted(left, key=abs, reverse=True)
    total = sum((v * left[v] for v in falling), start=decimal.Decimal(0))
    return int(total.compare(0))


def greatest(scores, k):
    """Indices of the k greatest sums of terms, ties by lowest index."""
    with decimal.localcontext(EXACT):
        order = functools.cmp_to_key(less)
        return sorted(range(len(scores)), key=lambda e: order(scores[e]))[:k]


def sigmoid_top_k(logits, bias, k, allowed=None):
    """The K experts of greatest score plus bias, of the allowed ones."""
    experts = range(len(logits))
    experts = [e for e in experts if allowed is None or allowed[e]]
    scores = [terms(float(logits[e]), float(bias[e])) for e in experts]
    return [experts[i] for i in greatest(scores, k)]


def allowed_experts(logits, bias, groups, chosen_groups, scored):
    """Whether experts are of the groups whose best scores sum highest."""
    size = len(logits) // groups
    sums = []
    for first in range(0, len(logits), size):
        inside = [first <= e < first + size for e in range(len(logits))]
        best = sigmoid_top_k(logits, bias, scored, inside)
        found = [terms(float(logits[e]), float(bias[e])) for e in best]
        sums.append([number for parts in found for number in parts])
    best = greatest(sums, chosen_groups)
    return [e // size in best for e in range(len(logits))]


def log_sum_exp(values):
    """Logarithm of the sum of the exponentials, -inf of none."""
    values = np.float64(values)
    top = np.max(values, initial=-np.inf)
    if not np.isfinite(top):
        return top
    return top + np.log(np.sum(np.exp(values - top)))


def log_odds(logits):
    """`log(p / (1 - p))` of the probabilities of one token, [E]."""
    logits = np.float64(logits)
    rest = [log_sum_exp(np.delete(logits, e)) for e in range(len(logits))]
    return logits - np.array(rest)


def log_plan(logits, iterations):
    """Logarithm of Sinkhorn's plan of tokens [T, E], rows up to constants."""
    logits = np.float64(logits)
    column = np.zeros(logits.shape[1])
    for _ in range(iterations):
        plan = logits + column
        plan -= np.array([[log_sum_exp(row)] for row in plan])
        column -= [log_sum_exp(mass) for mass in plan.T]
    return logits + column


def top_p_count(logits, p, k):
    """How many of the K greatest are chosen: until 1 - p is left at most."""
    falling = np.sort(np.float64(logits))[::-1]
    total = log_sum_exp(falling)
    left = [log_sum_exp(falling[i:]) - total for i in range(k)]
    enough = -np.inf if p == 1 else np.log1p(-p)
    return max(1, sum(bool(x > enough) for x in left))

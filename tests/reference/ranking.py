"""Ranking metrics by counting pairs, one after another."""

import math


def auc(score, label):
    """Share of the pairs in which the positive one scores above."""
    right = pairs = 0.0
    for s, y in zip(score, label, strict=True):
        for other, z in zip(score, label, strict=True):
            if y and not z:
                pairs += 1
                right += 1.0 if s > other else 0.5 if s == other else 0.0
    return right / pairs if pairs else math.nan


def gauc(score, label, user, weighted):
    """Mean AUC of the users with both classes."""
    total = weights = 0.0
    for one in sorted(set(user)):
        rows = [i for i, u in enumerate(user) if u == one]
        own = auc([score[i] for i in rows], [label[i] for i in rows])
        if not math.isnan(own):
            weight = len(rows) if weighted else 1
            total, weights = total + weight * own, weights + weight
    return total / weights if weights else math.nan

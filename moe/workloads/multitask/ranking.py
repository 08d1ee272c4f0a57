"""Evaluation metrics of a task over a whole validation set.

NumPy in double precision over N examples, O(N log N). A mask excludes
examples. A metric that is not defined, such as the AUC of one class or any of
scores among which there is a nan, is nan.
"""

from typing import Any

import numpy as np


def auc(score, label, mask=None) -> float:
    """Returns the probability that a positive scores above a negative (AUC).

        AUC = (R - P (P + 1) / 2) / (P (N - P)),

    R is the sum of the ranks of the P positives; equal scores have their mean
    rank, so that a constant score has 0.5.

    Source: Hanley and McNeil, Radiology 1982.

    Args:
      score: [N], logits or probabilities; only their order counts.
      label: [N], positive above 0.5.
      mask: [N] bool, the examples that count; None for all.

    Returns:
      In [0, 1]; nan without a positive or without a negative.
    """
    score, label = _valid(mask, score, label)
    if np.any(np.isnan(score)):  # which has no rank
        return float('nan')
    every, _ = _user_aucs(score, label > 0.5, np.zeros(len(score), int))
    return float(every[0]) if len(every) else float('nan')


def gauc(score, label, user, mask=None, *, weighted: bool = False) -> float:
    """Returns the mean over users of their own AUC.

    A user with labels of one class has no AUC and is excluded.

    Source: Zhu et al., Optimized Cost per Click in Taobao Display
    Advertising, KDD 2017, equation 11.

    Args:
      score: [N], logits or probabilities; only their order counts.
      label: [N], positive above 0.5.
      user: [N] integers.
      mask: [N] bool, the examples that count; None for all.
      weighted: whether users are weighted by their number of examples.

    Returns:
      In [0, 1]; nan if no user has both classes.
    """
    score, label = _valid(mask, score, label)
    (user,) = _valid(mask, user, dtype=np.int64)
    if np.any(np.isnan(score)):
        return float('nan')
    every, count = _user_aucs(score, label > 0.5, user)
    kept = np.isfinite(every)
    weight = (count if weighted else np.ones_like(every))[kept]
    return _ratio(np.sum(weight * every[kept]), np.sum(weight))


def log_loss(logit, label, mask=None) -> float:
    """Returns the mean cross-entropy in nats.

        softplus(z) - y z,   or of classes   log sum_k exp(z_k) - z_y

    Args:
      logit: [N], or [N, K] of K classes.
      label: [N], in [0, 1], or the class.
      mask: [N] bool, the examples that count; None for all.

    Returns:
      The mean, nan over no examples.
    """
    logit, label = _valid(mask, logit, label)
    if logit.ndim == 1:
        with np.errstate(invalid='ignore'):
            loss = np.logaddexp(0.0, logit) - label * logit
    else:
        most = np.max(logit, axis=1, keepdims=True)
        total = most[:, 0] + np.log(np.sum(np.exp(logit - most), axis=1))
        loss = total - logit[np.arange(len(label)), label.astype(int)]
    return _mean(loss)


def mse(prediction, label, mask=None) -> float:
    """Returns the mean squared error, `(f - y)²`.

    Args:
      prediction: [N].
      label: [N].
      mask: [N] bool, the examples that count; None for all.

    Returns:
      The mean, nan over no examples.
    """
    prediction, label = _valid(mask, prediction, label)
    return _mean((prediction - label) ** 2)


def accuracy(logit, label, mask=None) -> float:
    """Returns the share of the examples whose likeliest class is right.

    Args:
      logit: [N], of the positive class, or [N, K] of K classes.
      label: [N], 0 or 1, or the class.
      mask: [N] bool, the examples that count; None for all.

    Returns:
      In [0, 1]; nan over no examples.
    """
    logit, label = _valid(mask, logit, label)
    guess = logit > 0 if logit.ndim == 1 else np.argmax(logit, axis=1)
    unknown = np.isnan(logit if logit.ndim == 1 else np.max(logit, axis=1))
    return _mean(np.where(unknown, np.nan, guess == label))


def calibration(probability, label, mask=None) -> float:
    """Returns the mean prediction over the mean label; 1 if calibrated.

    Source: He et al., Practical Lessons from Predicting Clicks on Ads at
    Facebook, ADKDD 2014, section 3.

    Args:
      probability: [N], in [0, 1].
      label: [N], 0 or 1.
      mask: [N] bool, the examples that count; None for all.

    Returns:
      The ratio; nan without a positive.
    """
    probability, label = _valid(mask, probability, label)
    return _ratio(np.sum(probability), np.sum(label))


def calibration_error(
    probability, label, mask=None, *, num_bins: int = 10
) -> float:
    """Returns the expected calibration error over bins of predictions.

        ECE = sum_b |sum_{i in b} p_i - y_i| / N

    Source: Naeini et al., Obtaining Well Calibrated Probabilities Using
    Bayesian Binning, AAAI 2015.

    Args:
      probability: [N], in [0, 1].
      label: [N], 0 or 1.
      mask: [N] bool, the examples that count; None for all.
      num_bins: number of bins, of equal width and closed below.

    Returns:
      In [0, 1]; nan over no examples.
    """
    probability, label = _valid(mask, probability, label)
    if np.any(np.isnan(probability)):
        return float('nan')
    place = np.minimum((probability * num_bins).astype(int), num_bins - 1)
    gap = np.bincount(place, probability - label, num_bins)
    return _ratio(np.sum(np.abs(gap)), len(label))


def _user_aucs(score, positive, user) -> tuple[np.ndarray, np.ndarray]:
    """Returns the AUC of each user, NaN with one class, and their examples."""
    order = np.lexsort((score, user))
    score, positive, user = score[order], positive[order], user[order]
    new_user = _starts(user)
    first = np.flatnonzero(new_user)  # example of each user
    tie = np.flatnonzero(new_user | _starts(score))
    # Examples of a tie are of the ranks from `tie` on: 1 + those before.
    length = np.diff(tie, append=len(score))
    place = np.repeat(tie + (length + 1) / 2, length)
    count = np.diff(first, append=len(score)).astype(float)
    rank = place - np.repeat(first, count.astype(int))
    if not len(first):
        return np.zeros(0), count
    positives = np.add.reduceat(positive.astype(float), first)
    ranks = np.add.reduceat(np.where(positive, rank, 0.0), first)
    pairs = positives * (count - positives)
    above = ranks - positives * (positives + 1) / 2
    nothing = np.full(len(first), np.nan)
    return np.divide(above, pairs, out=nothing, where=pairs > 0), count


def _starts(values: np.ndarray) -> np.ndarray:
    """Returns True where a run of equal values begins."""
    differs = values[1:] != values[:-1]
    return np.concatenate([np.ones(min(len(values), 1), bool), differs])


def _valid(mask, *arrays, dtype: Any = np.float64) -> list[np.ndarray]:
    """Returns the rows of arrays where the mask is True."""
    made = [np.asarray(array, dtype) for array in arrays]
    return made if mask is None else [a[np.asarray(mask, bool)] for a in made]


def _mean(values: np.ndarray) -> float:
    return _ratio(np.sum(values), len(values))


def _ratio(above, below) -> float:
    return float(above / below) if below else float('nan')

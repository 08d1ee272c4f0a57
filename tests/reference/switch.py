"""A hard switch, one example at a time, in float64, with gradients.

An expert is a pair of functions of one example [D]: its output [F], and its
pullback from d_output to (d_parameters, d_example).
"""

import math

import numpy as np

from tests.reference.routing import largest, softmax


def add(w):
    """x + w."""
    return lambda x: x + w, lambda x, d: (d, d)


def times(w):
    """x * w."""
    return lambda x: x * w, lambda x, d: (x * d, w * d)


def dense(kernel):
    """x W."""
    pull = lambda x, d: (np.outer(x, d), kernel @ d)
    return lambda x: x @ kernel, pull


def choose(logits):
    """Expert of one example: the largest logit, the first of equal ones."""
    if np.any(np.isnan(logits)):
        return 0
    return largest(logits, 1)[0]


def choose_of_two(logit):
    """The same for one logit: the second expert where sigmoid > 1/2."""
    return int(1 / (1 + math.exp(-logit)) > 0.5)


def switch(x, mask, kernel, bias, experts, gradient, dy):
    """Outputs, choices and the gradients of `sum(y * dy)`.

    `gradient` is 'none', 'straight_through' or 'probability'; masked examples
    have choice -1. Logits are `x @ kernel + bias`, after a 0 if that is one
    fewer than there are experts.
    """
    count = len(experts)
    y, choices = np.zeros(dy.shape), []
    d_x, d_kernel = np.zeros(x.shape), np.zeros(kernel.shape)
    d_bias, d_params = np.zeros(bias.shape), [0.0] * count
    for b in range(len(x)):
        if not mask[b]:
            choices.append(-1)
            continue
        given = x[b] @ kernel + bias
        pinned = count - len(given)
        p = softmax([0.0] * pinned + list(given))
        c = choose([0.0] * pinned + list(given))
        choices.append(c)
        function, pull = experts[c]
        factor = p[c] if gradient == 'probability' else 1.0
        out = function(x[b])
        y[b] = factor * out
        step, d_x[b] = pull(x[b], factor * dy[b])
        d_params[c] = d_params[c] + step
        if gradient == 'none':
            continue
        # dp_c / dlogit_k = p_c (1[k = c] - p_k).
        d_logits = (out @ dy[b]) * p[c] * (np.eye(count)[c] - p)
        d_logits = d_logits[pinned:]
        d_kernel += np.outer(x[b], d_logits)
        d_bias += d_logits
        d_x[b] += kernel @ d_logits
    return y, choices, (d_x, d_kernel, d_bias, d_params)

"""Sub-network routing by loops, in float64, with gradients.

B examples, N inputs, M outputs; route (j, i) is from input i to output j.
"""

import numpy as np


def sigmoid(x):
    """Of one number, without overflow."""
    return 1 / (1 + np.exp(-x)) if x > 0 else 1 - 1 / (1 + np.exp(x))


def gate(log_alpha, u=None, *, beta=0.5, gamma=-0.1, zeta=1.1, ste=False):
    """One gate and its derivative; `ste` differentiates as if not clipped."""
    if u is None:
        beta, noise = 1.0, 0.0
    else:
        noise = np.log(u) - np.log(1 - u)
    s = sigmoid((noise + log_alpha) / beta)
    stretched = s * (zeta - gamma) + gamma
    slope = s * (1 - s) / beta * (zeta - gamma)
    inside = 0 < stretched < 1
    return min(max(stretched, 0.0), 1.0), slope * (inside or ste)


def open_chance(log_alpha, beta=0.5, gamma=-0.1, zeta=1.1):
    """P(z > 0): the share of draws u for which the gate is not closed.

    `s > -gamma / (zeta - gamma)` where u is greater than the returned value's
    complement, solved for u.
    """
    edge = -gamma / (zeta - gamma)
    logit = beta * (np.log(edge) - np.log(1 - edge)) - log_alpha
    return 1 - sigmoid(logit)


def outputs(x, z, weight):
    """[B, M, F]; `weight` None adds the inputs themselves."""
    num_outputs, num_inputs = z.shape
    features = x.shape[-1] if weight is None else weight.shape[-1]
    y = np.zeros((len(x), num_outputs, features))
    for b, j, i in np.ndindex(len(x), num_outputs, num_inputs):
        through = x[b, i] if weight is None else x[b, i] @ weight[j, i]
        y[b, j] += z[j, i] * through
    return y


def gradients(x, z, slope, weight, dy):
    """Of `sum(y * dy)` with respect to log_alpha, weight and x."""
    d_log_alpha, d_x = np.zeros(z.shape), np.zeros(x.shape)
    d_weight = None if weight is None else np.zeros(weight.shape)
    for b, j, i in np.ndindex(len(x), *z.shape):
        matrix = np.eye(x.shape[-1]) if weight is None else weight[j, i]
        d_log_alpha[j, i] += slope[j, i] * (x[b, i] @ matrix @ dy[b, j])
        d_x[b, i] += z[j, i] * (matrix @ dy[b, j])
        if weight is not None:
            d_weight[j, i] += z[j, i] * np.outer(x[b, i], dy[b, j])
    return d_log_alpha, d_weight, d_x

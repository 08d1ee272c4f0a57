"""Grouped products and their gradients, row by row in float64."""

import numpy as np


def grouped_products(x, w, sizes, dy):
    """Returns (y, dx, dw) of rows [A, D] and matrices [E, D, F].

    `y[a] = x[a] w[e]` for the rows a of group e, 0 past the last group; dx and
    dw for the cotangent dy [A, F].
    """
    x, w, dy = np.float64(x), np.float64(w), np.float64(dy)
    y, dx, dw = np.zeros(dy.shape), np.zeros(x.shape), np.zeros(w.shape)
    expert_of_row = np.repeat(np.arange(len(w)), sizes)
    for a, e in enumerate(expert_of_row):
        y[a] = x[a] @ w[e]
        dx[a] = w[e] @ dy[a]
        dw[e] += np.outer(x[a], dy[a])
    return y, dx, dw


def whole_numbers(num_rows, num_groups, widths, seed=0):
    """x, w and dy of small whole numbers over 8: exact in bfloat16."""
    rng = np.random.default_rng(seed)
    d, f = widths
    shapes = [(num_rows, d), (num_groups, d, f), (num_rows, f)]
    return [rng.integers(-16, 17, shape) / 8 for shape in shapes]

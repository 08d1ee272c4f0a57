"""Self-attention by loops over heads and positions, in float64.

B batch, S positions, D width, H query heads, N key-value heads, h head width.
"""

import numpy as np

from tests.reference.routing import softmax


def rotate(x, position, theta):
    """Turns each pair (x[i], x[i + h/2]) of a vector as a complex number."""
    half = len(x) // 2
    turned = np.zeros(len(x))
    for i in range(half):
        angle = position * theta ** (-2 * i / len(x))
        z = complex(x[i], x[i + half]) * np.exp(1j * angle)
        turned[i], turned[i + half] = z.real, z.imag
    return turned


def attention(x, params, *, causal, theta):
    """Multi-head attention of x [B, S, D].

    Args:
      x: inputs.
      params: `query` [D, H, h], `key` and `value` [D, N, h], `out` [H, h, D].
      causal: whether position s sees only the positions up to s.
      theta: base of the rotary wavelengths, or None.
    """
    heads, width = params['query'].shape[1:]
    shared = heads // params['key'].shape[1]  # query heads a key head serves
    turn = lambda v, s: v if theta is None else rotate(v, s, theta)
    y = np.zeros(x.shape)
    for b, s in np.ndindex(x.shape[:2]):
        seen = range(s + 1 if causal else x.shape[1])
        for h in range(heads):
            query = turn(x[b, s] @ params['query'][:, h], s)
            scores, values = [], []
            for t in seen:
                key = turn(x[b, t] @ params['key'][:, h // shared], t)
                scores.append(query @ key / np.sqrt(width))
                values.append(x[b, t] @ params['value'][:, h // shared])
            mixed = softmax(np.array(scores)) @ np.array(values)
            y[b, s] += mixed @ params['out'][h]
    return y

"""Multi-head latent attention by loops over heads and positions, in float64."""

import numpy as np

from tests.reference.attention import weighted
from tests.reference.rope import rotate


def attention(x, params, *, nope_dim, rope=None, scale=None, segments=None):
    """Causal latent attention of x [B, S, D].

    Args:
      x: inputs.
      params: `query` [D, H, n + p], or `query_down` [D, q], its norm and
        `query_up` [q, H, n + p]; `key_value_down` [D, r] and its norm,
        `key_rope` [D, p], `key_up` [r, H, n], `value_up` [r, H, v] and `out`
        [H, v, D].
      nope_dim: n.
      rope: arguments of `rotate`, or None.
      scale: factor on the scores; None for 1 / sqrt(n + p).
      segments: [B, S] numbers of documents.
    """
    rows, length, _ = x.shape
    heads = params['out'].shape[0]
    y = np.zeros(x.shape)
    for b in range(rows):
        numbers = np.zeros(length) if segments is None else segments[b]
        begin = [list(numbers).index(number) for number in numbers]
        turn = lambda z, at: z if rope is None else rotate(z, at, **rope)
        queries, keys, values = [], [], []
        for s, token in enumerate(x[b]):
            at = s - begin[s]
            inner, name = token, 'query'
            if 'query_down' in params:
                inner = norm(token @ params['query_down'], params, 'query_down')
                name = 'query_up'
            kept = token @ params['key_value_down']
            kept = norm(kept, params, 'key_value')
            moving = turn(token @ params['key_rope'], at)
            for h in range(heads):
                query = inner @ params[name][:, h]
                parts = query[:nope_dim], turn(query[nope_dim:], at)
                queries.append(np.concatenate(parts))
                key = kept @ params['key_up'][:, h]
                keys.append(np.concatenate([key, moving]))
                values.append(kept @ params['value_up'][:, h])
        factor = len(keys[0]) ** -0.5 if scale is None else scale
        for s, h in np.ndindex(length, heads):
            seen = [t for t in range(s + 1) if numbers[t] == numbers[s]]
            query = queries[s * heads + h]
            mean = weighted(
                [factor * query @ keys[t * heads + h] for t in seen],
                [values[t * heads + h] for t in seen],
            )
            y[b, s] += mean @ params['out'][h]
    return y


def norm(x, params, name):
    """RMSNorm with the epsilon of 1e-6 that is inside latent attention."""
    root = np.sqrt(np.mean(x**2) + 1e-6)
    return x / root * params[f'{name}_norm']['scale']

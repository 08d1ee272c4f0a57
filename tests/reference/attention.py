"""Self-attention by loops over heads and positions, in float64.

B batch, S positions, D width, H query heads, N key-value heads, h head width.
"""

import numpy as np

from tests.reference.rope import rotate
from tests.reference.routing import softmax


def attention(
    x,
    params,
    *,
    causal=True,
    rope=None,
    qk_norm='none',
    epsilon=1e-6,
    clip=None,
    scale=None,
    window=None,
    segments=None,
):
    """Multi-head attention of x [B, S, D].

    Args:
      x: inputs.
      params: `query` [D, H, h], `key` and `value` [D, N, h], `out` [H, h, D];
        perhaps `query_bias` and so on, and `sinks` [H].
      causal: whether position s sees only the positions up to s.
      rope: arguments of `rotate`, or None.
      qk_norm: none, head or width, with `query_norm` and `key_norm`.
      epsilon: of the norms.
      clip: bound on queries, keys and values.
      scale: factor on the scores; None for 1 / sqrt(h).
      window: number of positions seen, itself included.
      segments: [B, S] numbers of documents, which see themselves alone and
        count positions from their beginning.
    """
    heads, width = params['query'].shape[1:]
    shared = heads // params['key'].shape[1]  # query heads a key head serves
    scale = width**-0.5 if scale is None else scale
    y = np.zeros(x.shape)
    for b in range(len(x)):
        numbers = np.zeros(x.shape[1]) if segments is None else segments[b]
        begin = [list(numbers).index(number) for number in numbers]
        queries, keys, values = [], [], []
        for s, token in enumerate(x[b]):
            q, k, v = (
                project(token, params, name)
                for name in ('query', 'key', 'value')
            )
            q = normed(q, params, 'query_norm', qk_norm, epsilon)
            k = normed(k, params, 'key_norm', qk_norm, epsilon)
            if clip is not None:
                q, k, v = (np.clip(z, -clip, clip) for z in (q, k, v))
            if rope is not None:
                turn = lambda z, at: rotate(z, at, **rope)
                q = np.array([turn(z, s - begin[s]) for z in q])
                k = np.array([turn(z, s - begin[s]) for z in k])
            queries.append(q), keys.append(k), values.append(v)
        for s in range(x.shape[1]):
            seen = [
                t
                for t in range(s + 1 if causal else x.shape[1])
                if numbers[t] == numbers[s]
                and (window is None or s - t < window)
            ]
            for h in range(heads):
                n = h // shared
                scores = [scale * queries[s][h] @ keys[t][n] for t in seen]
                mean = weighted(
                    scores,
                    [values[t][n] for t in seen],
                    params['sinks'][h] if 'sinks' in params else None,
                )
                y[b, s] += mean @ params['out'][h]
            y[b, s] += params.get('out_bias', 0)
    return y


def project(token, params, name):
    """One vector a head, of the weights `name` and their bias if there is."""
    y = np.einsum('d,dnh->nh', token, params[name])
    return y + params.get(f'{name}_bias', 0)


def normed(x, params, name, kind, epsilon):
    """Divides by the root mean square of each head, or of all at once."""
    if kind == 'none':
        return x
    rows = x if kind == 'head' else x.reshape(1, -1)
    root = np.sqrt(np.mean(rows**2, axis=1, keepdims=True) + epsilon)
    return (rows / root * params[name]['scale']).reshape(x.shape)


def weighted(scores, values, sink=None):
    """The mean of the values by the softmax, in which a sink takes part."""
    if sink is None:
        return softmax(np.array(scores)) @ np.array(values)
    return softmax(np.array([*scores, sink]))[:-1] @ np.array(values)

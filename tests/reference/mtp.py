"""Multi-token prediction by loops over depths and positions, in float64.

W tokens of one document, D width.
"""

import numpy as np

from tests.reference.model import embedded, head, norm, stack


def losses(window, params, options, depth):
    """Losses of one document, of each depth a list, in the order of positions.

    At depth 0 position i predicts token i + 1, at depth k token i + k + 1, of
    what the depth before made of the position and of token i + k.

    Args:
      window: token ids [W].
      params: of the model, with `mtp_1` and so on.
      options: of `model.stack`.
      depth: number of depths.
    """
    epsilon = options['epsilon']
    tokens = window[None]
    x, _ = stack(embedded(tokens, params, options), params['stack'], options)
    hidden = norm(x, params['norm'], epsilon)
    found = [_of_tokens(hidden[0], window[1:], params, options)]
    for k in range(1, depth + 1):
        own = params[f'mtp_{k}']
        # The positions that have a token k + 1 later.
        count = len(window) - k - 1
        rows = np.zeros((1, count, hidden.shape[-1]))
        following = embedded(tokens, params, options)
        for i in range(count):
            one = norm(hidden[0, i], own['hidden_norm'], epsilon)
            two = norm(following[0, i + k], own['embedding_norm'], epsilon)
            rows[0, i] = np.concatenate([one, two]) @ own['projection']
        rows, _ = stack(rows, own['stack'], options)
        hidden = norm(rows, own['norm'], epsilon)
        found.append(_of_tokens(hidden[0], window[k + 1 :], params, options))
    return found


def _of_tokens(hidden, targets, params, options):
    """Cross-entropies of the targets of the first positions."""
    return [
        _log_sum_exp(logits) - logits[target]
        for logits, target in zip(
            (head(row, params, options) for row in hidden),
            targets,
            strict=False,
        )
    ]


def squared_log_sums(window, params, options):
    """Squared log-sum-exp of the model's logits, of all but the last token."""
    x = embedded(window[None, :-1], params, options)
    x, _ = stack(x, params['stack'], options)
    x = norm(x, params['norm'], options['epsilon'])
    return [_log_sum_exp(head(row, params, options)) ** 2 for row in x[0]]


def _log_sum_exp(logits):
    top = np.max(logits)
    return top + np.log(np.sum(np.exp(logits - top)))

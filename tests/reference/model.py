"""The decoder language model by loops over layers and tokens, in float64.

B batch, S positions, D width, V vocabulary, R repetitions of a pattern.
"""

import numpy as np

from tests.reference import experts as reference_experts
from tests.reference.attention import attention
from tests.reference.layer import layer


def norm(x, params, epsilon):
    """RMSNorm of each token's vector; LayerNorm if there is a bias."""
    y = np.zeros(x.shape)
    bias = params.get('bias')
    for at in np.ndindex(x.shape[:-1]):
        v = x[at] if bias is None else x[at] - np.mean(x[at])
        y[at] = v / np.sqrt(np.mean(v**2) + epsilon) * params['scale']
        y[at] += 0.0 if bias is None else bias
    return y


def stack(x, params, options, *, causal=True, mask=None):
    """Every block on x [B, S, D], each sequence a group of the mixtures.

    Args:
      x: inputs.
      params: `layers`, or `layers_0`, `layers_1` and so on, one after another:
        each a pattern `block_0`, `block_1` ..., each stacked [R, ...].
      options: a dictionary of `theta`, `epsilon`, `activation`, what `layer`
        needs, and maybe `residual_scale`.
      causal: whether a position sees only itself and those before it.
      mask: live tokens [B, S] of the mixtures; None if all are.

    Returns:
      The outputs, and the Output of every mixture, in the order of the layers.
    """
    mixtures = []
    mask = np.ones(x.shape[:2], bool) if mask is None else mask
    scale = options.get('residual_scale', 1.0)
    for block in blocks(params):
        x = x + scale * attention(
            norm(x, block['attention_norm'], options['epsilon']),
            block['attention'],
            causal=causal,
            rope=options['theta'] and {'theta': options['theta']},
        )
        h = norm(x, block['mlp_norm'], options['epsilon'])
        if 'moe' in block:
            moe = block['moe']
            bias = moe.get('router_bias', 0.0)
            given = (moe['router'], moe['experts'], mask, options, bias)
            mixtures.append(layer(h, *given))
            x = x + scale * mixtures[-1].y
        else:
            y = np.zeros(x.shape)
            for at in np.ndindex(x.shape[:2]):
                y[at] = reference_experts.mlp(
                    h[at], block['mlp'], options['activation']
                )
            x = x + scale * y
    return x, mixtures


def blocks(params):
    """The parameters of each block of a stack, in the order of the layers."""
    found = []
    for i in range(len(params)):
        layers = params['layers' if len(params) == 1 else f'layers_{i}']
        repeats = len(layers['block_0']['attention_norm']['scale'])
        for repeat in range(repeats):
            for j in range(len(layers)):
                found.append(_select(layers[f'block_{j}'], repeat))
    return found


def logits(tokens, params, options):
    """Logits [B, S, V] of token ids [B, S].

    The embedding is times sqrt(D), or `embedding_scale` of the options; the
    logits are times `logit_scale`, if it is one of them.
    """
    x, _ = stack(embedded(tokens, params, options), params['stack'], options)
    return head(norm(x, params['norm'], options['epsilon']), params, options)


def embedded(tokens, params, options):
    """Rows of the embedding, times its factor."""
    width = params['embedding'].shape[1]
    scale = options.get('embedding_scale', np.sqrt(width))
    return params['embedding'][tokens] * scale


def head(x, params, options):
    """Logits of normed vectors."""
    return x @ params['head'] * options.get('logit_scale', 1.0)


def _select(tree, index):
    """The same tree of the entries `index` of every array."""
    if isinstance(tree, dict):
        return {name: _select(value, index) for name, value in tree.items()}
    return tree[index]

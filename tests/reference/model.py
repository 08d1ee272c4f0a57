"""The decoder language model by loops over layers and tokens, in float64.

B batch, S positions, D width, V vocabulary, R repetitions of a pattern.
"""

import numpy as np

from tests.reference import experts as reference_experts
from tests.reference.attention import attention
from tests.reference.layer import layer


def norm(x, scale, epsilon):
    """Divides each token's vector by its root mean square."""
    y = np.zeros(x.shape)
    for at in np.ndindex(x.shape[:-1]):
        y[at] = x[at] / np.sqrt(np.mean(x[at] ** 2) + epsilon) * scale
    return y


def stack(x, params, options, *, causal=True, mask=None):
    """Every block on x [B, S, D], each sequence a group of the mixtures.

    Args:
      x: inputs.
      params: `layers`, or `layers_0`, `layers_1` and so on, one after another:
        each a pattern `block_0`, `block_1` ..., each stacked [R, ...].
      options: a dictionary of `theta`, `epsilon`, `activation`, and what
        `layer` needs.
      causal: whether a position sees only itself and those before it.
      mask: live tokens [B, S] of the mixtures; None if all are.

    Returns:
      The outputs, and the Output of every mixture, in the order of the layers.
    """
    mixtures = []
    mask = np.ones(x.shape[:2], bool) if mask is None else mask
    for block in blocks(params):
        scales = (block[f'{n}_norm']['scale'] for n in ('attention', 'mlp'))
        before_attention, before_mlp = scales
        x = x + attention(
            norm(x, before_attention, options['epsilon']),
            block['attention'],
            causal=causal,
            theta=options['theta'],
        )
        h = norm(x, before_mlp, options['epsilon'])
        if 'moe' in block:
            moe = block['moe']
            out = layer(h, moe['router'], moe['experts'], mask, options)
            mixtures.append(out)
            x = x + out.y
        else:
            y = np.zeros(x.shape)
            for at in np.ndindex(x.shape[:2]):
                y[at] = reference_experts.mlp(
                    h[at], block['mlp'], options['activation']
                )
            x = x + y
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
    """Logits [B, S, V] of token ids [B, S]; the embedding is scaled."""
    x = params['embedding'][tokens] * np.sqrt(params['embedding'].shape[1])
    x, _ = stack(x, params['stack'], options)
    x = norm(x, params['norm']['scale'], options['epsilon'])
    return x @ params['head']


def _select(tree, index):
    """The same tree of the entries `index` of every array."""
    if isinstance(tree, dict):
        return {name: _select(value, index) for name, value in tree.items()}
    return tree[index]

"""V-MoE by its published definition, in float64, on its published names.

Source: github.com/google-research/vmoe, `vmoe/nn/vit_moe.py`, `routing.py` and
vision_transformer's `models_vit.py`; without capacity. B images, S tokens.
"""

import numpy as np


def gelu(x):
    """Flax's `nn.gelu`, its tanh approximation."""
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1 + np.tanh(inner))


def softmax(x):
    """Softmax of the last axis."""
    shifted = np.exp(x - x.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def layer_norm(x, params, name):
    """Flax's LayerNorm, epsilon 1e-6."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    normed = centred / np.sqrt(variance + 1e-6)
    return normed * params[f'{name}/scale'] + params[f'{name}/bias']


def dense(x, params, name):
    """A product and its bias."""
    return x @ params[f'{name}/kernel'] + params[f'{name}/bias']


def attention(x, params, name):
    """Flax's MultiHeadDotProductAttention of one sequence [S, D]."""
    project = lambda part: (
        np.einsum('sd,dhk->hsk', x, params[f'{name}/{part}/kernel'])
        + params[f'{name}/{part}/bias'][:, None]
    )
    query, key, value = map(project, ('query', 'key', 'value'))
    scores = query @ key.swapaxes(1, 2) / np.sqrt(query.shape[-1])
    heads = softmax(scores) @ value
    out = np.einsum('hsk,hkd->sd', heads, params[f'{name}/out/kernel'])
    return out + params[f'{name}/out/bias']


def mixture(x, params, name, k):
    """K experts a token, weighted by the softmax over all of them."""
    y = np.zeros(x.shape)
    inner = {
        i: [params[f'{name}/Mlp/Dense_{i}/{p}'] for p in ('kernel', 'bias')]
        for i in (0, 1)
    }
    for s, token in enumerate(x):
        gates = softmax(token @ params[f'{name}/Router/dense/kernel'])
        for e in np.argsort(-gates)[:k]:
            hidden = gelu(token @ inner[0][0][e] + inner[0][1][e])
            y[s] += gates[e] * (hidden @ inner[1][0][e] + inner[1][1][e])
    return y


def logits(images, params, k=2):
    """Class scores [B, classes] of pixels [B, H, W, C]."""
    params = {name: np.float64(x) for name, x in params.items()}
    kernel = params['embedding/kernel']
    size, found = kernel.shape[0], []
    for image in images:
        tokens = [
            np.einsum('pqc,pqcd->d', image[i : i + size, j : j + size], kernel)
            for i in range(0, image.shape[0], size)
            for j in range(0, image.shape[1], size)
        ]
        x = np.stack(tokens) + params['embedding/bias']
        if 'cls' in params:
            x = np.concatenate([params['cls'][0], x])
        x = x + params['Encoder/posembed_input/pos_embedding'][0]
        layer = 0
        while f'Encoder/encoderblock_{layer}/LayerNorm_0/scale' in params:
            name = f'Encoder/encoderblock_{layer}'
            h = layer_norm(x, params, f'{name}/LayerNorm_0')
            x = x + attention(h, params, f'{name}/SelfAttention')
            h = layer_norm(x, params, f'{name}/LayerNorm_1')
            if f'{name}/Moe/Router/dense/kernel' in params:
                x = x + mixture(h, params, f'{name}/Moe', k)
            else:
                h = gelu(dense(h, params, f'{name}/Mlp/Dense_0'))
                x = x + dense(h, params, f'{name}/Mlp/Dense_1')
            layer += 1
        x = layer_norm(x, params, 'Encoder/encoder_norm')
        x = x[0] if 'cls' in params else x.mean(axis=0)
        if 'pre_logits/kernel' in params:
            x = np.tanh(dense(x, params, 'pre_logits'))
        found.append(dense(x, params, 'head'))
    return np.stack(found)

"""The names of V-MoE's parameters, and the model that has them.

D width, H heads, h head width, F hidden width, E experts, p pixels a side of a
patch, C channels, S positions.
Source: github.com/google-research/vmoe, `vmoe/nn/vit_moe.py`.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from moe.config import ConfigError
from moe.models.pattern import Place

BLOCK = 'Encoder/encoderblock_{}/'
_POSITION = 'Encoder/posembed_input/pos_embedding'
_PATCHES = 'embedding/kernel'
_FIRST, _SECOND = 'Moe/Mlp/Dense_0/', 'Moe/Mlp/Dense_1/'

# Published names by those of a block, and of what is outside of blocks.
_IN_BLOCK = {
    'attention_norm/scale': 'LayerNorm_0/scale',
    'attention_norm/bias': 'LayerNorm_0/bias',
    'attention/query': 'SelfAttention/query/kernel',
    'attention/query_bias': 'SelfAttention/query/bias',
    'attention/key': 'SelfAttention/key/kernel',
    'attention/key_bias': 'SelfAttention/key/bias',
    'attention/value': 'SelfAttention/value/kernel',
    'attention/value_bias': 'SelfAttention/value/bias',
    'attention/out': 'SelfAttention/out/kernel',
    'attention/out_bias': 'SelfAttention/out/bias',
    'mlp_norm/scale': 'LayerNorm_1/scale',
    'mlp_norm/bias': 'LayerNorm_1/bias',
    'mlp/up': 'Mlp/Dense_0/kernel',
    'mlp/up_bias': 'Mlp/Dense_0/bias',
    'mlp/down': 'Mlp/Dense_1/kernel',
    'mlp/down_bias': 'Mlp/Dense_1/bias',
    'moe/router': 'Moe/Router/dense/kernel',
    'moe/experts/up': f'{_FIRST}kernel',
    'moe/experts/up_bias': f'{_FIRST}bias',
    'moe/experts/down': f'{_SECOND}kernel',
    'moe/experts/down_bias': f'{_SECOND}bias',
}
_OUTSIDE = {
    'norm/scale': 'Encoder/encoder_norm/scale',
    'norm/bias': 'Encoder/encoder_norm/bias',
    'head_hidden': 'pre_logits/kernel',
    'head_hidden_bias': 'pre_logits/bias',
    'head': 'head/kernel',
    'head_bias': 'head/bias',
}
# What the file does not say, as in the configs of the published checkpoints.
_ROUTER = {'name': 'top_k', 'k': 2, 'renormalize': False, 'noise': 1.0}
_CAPACITY = {'name': 'factor', 'train': 1.05, 'eval': 4.0}


def read_model(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Returns the section `model` of a run with these parameters.

    Args:
      shapes: shape of each published parameter, by name.

    Raises:
      ConfigError: for parameters of another model than V-MoE.
    """

    def of(name: str, rank: int) -> tuple[int, ...]:
        if len(shapes.get(name, ())) != rank:
            allowed = f'there, with {rank} axes, in a V-MoE or ViT'
            raise ConfigError(name, list(shapes.get(name, ())), allowed)
        return shapes[name]

    rows, columns, channels, width = of(_PATCHES, 4)
    token = 'cls' in shapes
    patches = of(_POSITION, 3)[1] - token
    side = math.isqrt(patches)
    if rows != columns or side * side != patches:
        allowed = 'square patches of a square image'
        raise ConfigError(_PATCHES, list(shapes[_PATCHES]), allowed)
    norms = (BLOCK + 'LayerNorm_0/scale').format
    layers = 0
    while norms(layers) in shapes:
        layers += 1
    _, heads, head = of(BLOCK.format(0) + _IN_BLOCK['attention/query'], 3)
    mixtures = [
        i
        for i in range(layers)
        if BLOCK.format(i) + _IN_BLOCK['moe/router'] in shapes
    ]
    dense = [i for i in range(layers) if i not in mixtures]
    network = lambda hidden: {
        'hidden': hidden,
        'activation': {'name': 'gelu'},
        'use_bias': True,
    }
    model: dict[str, Any] = {
        'image_size': side * rows,
        'channels': channels,
        'patch_size': rows,
        'num_classes': of(_OUTSIDE['head'], 2)[1],
        'pool': 'token' if token else 'mean',
        'd_model': width,
        'num_layers': layers,
        'num_heads': heads,
        'num_kv_heads': heads,
        'head_dim': head if head * heads != width else None,
        'attention_bias': 'all',
        'norm': 'layer',
        'norm_epsilon': 1e-6,
        **_places(mixtures, layers),
    }
    if _OUTSIDE['head_hidden'] in shapes:
        model['head_hidden'] = of(_OUTSIDE['head_hidden'], 2)[1]
    if dense:
        name = BLOCK.format(dense[0]) + _IN_BLOCK['mlp/up']
        model['dense'] = network(of(name, 2)[1])
    if mixtures:
        name = BLOCK.format(mixtures[0]) + _IN_BLOCK['moe/experts/up']
        experts, _, hidden = of(name, 3)
        model['moe'] = {
            'num_experts': experts,
            'experts': network(hidden),
            'router': _ROUTER,
            'capacity': _CAPACITY,
        }
    return model


def _places(mixtures: list[int], layers: int) -> dict[str, Any]:
    """Returns the fields that put the mixtures into these layers."""
    if not mixtures:
        return {'moe_every': 0}
    second = list(range(1, layers, 2))
    if mixtures == second:
        return {'moe_every': 2}
    if mixtures == second[-len(mixtures) :]:
        return {'moe_every': 2, 'moe_last': len(mixtures)}
    dense = [i for i in range(layers) if i not in mixtures]
    return {'moe_every': 1, 'dense_layers': dense}


def published_names(
    names: Iterable[str], places: list[Place]
) -> dict[str, list[str]]:
    """Returns the published parameters that each of a model's is made of.

    Args:
      names: names of the model's parameters, as 'params/norm/scale'.
      places: where its layers are, see `TransformerConfig.places`.

    Returns:
      Names in the order of the first axis, where there is one of layers.
    """
    found = {}
    for name in names:
        short = name.removeprefix('params/')
        if short == 'patches':
            found[name] = [_PATCHES]
        elif short == 'position_embedding':
            found[name] = [_POSITION, 'embedding/bias', 'cls']
        elif short in _OUTSIDE:
            found[name] = [_OUTSIDE[short]]
        else:
            _, scan, block, own = short.split('/', 3)
            found[name] = [
                BLOCK.format(i) + _IN_BLOCK[own]
                for i, place in enumerate(places)
                if (place.scan, place.block) == (scan, block)
            ]
    return found


def made(
    name: str, parts: list[str], read: Callable[[str], np.ndarray | None]
) -> np.ndarray:
    """Returns a parameter of the model, float32.

    Args:
      name: its name.
      parts: the published ones that it is made of, see `published_names`.
      read: returns a published one; None for one that is not there.
    """
    arrays = [read(part) for part in parts]
    found = [np.asarray(x, np.float32) for x in arrays if x is not None]
    if name == 'params/patches':
        return found[0].reshape(-1, found[0].shape[-1])
    if name == 'params/position_embedding':
        # The class token and the bias of the patches are added to them.
        _, bias, token = arrays
        position = found[0][0].copy()
        first = 0 if token is None else 1
        position[first:] += 0.0 if bias is None else bias
        position[:first] += 0.0 if token is None else token[0]
        return position
    return np.stack(found) if name.startswith('params/stack/') else found[0]

"""Checkpoints as V-MoE's own code writes them, made up.

Source: github.com/google-research/vmoe, `vmoe/checkpoints/serialization.py`.
"""

import msgpack
import numpy as np

P, C, D, H, F, E, GRID, CLASSES = 2, 3, 8, 2, 12, 4, 3, 5


def parameters(layers=4, mixtures=(3,), token=True, pre_logits=True):
    """Random parameters of a tiny V-MoE, by their published names."""
    draw = np.random.default_rng(0)
    made = {}

    def add(name, *shape):
        made[name] = 0.4 * draw.standard_normal(shape, np.float32)

    def both(name, *shape, bias=None):
        add(f'{name}/kernel', *shape)
        add(f'{name}/bias', *(shape[-1:] if bias is None else bias))

    def norm(name):
        add(f'{name}/bias', D)
        made[f'{name}/scale'] = 1 + 0.4 * draw.standard_normal(D, np.float32)

    both('embedding', P, P, C, D)
    if token:
        add('cls', 1, 1, D)
    add('Encoder/posembed_input/pos_embedding', 1, token + GRID**2, D)
    for i in range(layers):
        block = f'Encoder/encoderblock_{i}'
        norm(f'{block}/LayerNorm_0')
        norm(f'{block}/LayerNorm_1')
        for name in ('query', 'key', 'value'):
            shape = (H, D // H)
            both(f'{block}/SelfAttention/{name}', D, *shape, bias=shape)
        both(f'{block}/SelfAttention/out', H, D // H, D)
        if i in mixtures:
            add(f'{block}/Moe/Router/dense/kernel', D, E)
            both(f'{block}/Moe/Mlp/Dense_0', E, D, F, bias=(E, F))
            both(f'{block}/Moe/Mlp/Dense_1', E, F, D, bias=(E, D))
        else:
            both(f'{block}/Mlp/Dense_0', D, F)
            both(f'{block}/Mlp/Dense_1', F, D)
    norm('Encoder/encoder_norm')
    if pre_logits:
        both('pre_logits', D, D)
    both('head', D, CLASSES)
    return made


def pack(value):
    """Bytes of a value without types of its own."""
    return msgpack.packb(value, use_bin_type=True)


def array(x):
    """An array, as type 1."""
    return msgpack.ExtType(1, pack((x.shape, x.dtype.name, x.tobytes())))


def slices(where):
    """Bytes of slices along all axes."""
    return pack([pack((a, b, None)) for a, b in where])


def write(prefix, params, shards=2, cut=False, **changes):
    """Writes a checkpoint; arrays of experts have a piece for each.

    Args:
      prefix: path without the ends of the names.
      params: arrays by their names.
      shards: number of shards, which pieces go to in turn.
      cut: whether the index lacks a piece of each array of experts.
      **changes: fields of the index that are others.
    """
    data = [{'__msgpack_array_chunk_a87ca2__': True} for _ in range(shards)]
    tree, count = {}, 0
    for number, (name, x) in enumerate(in_order(params)):
        whole = [(0, size) for size in x.shape]
        pieces = [whole]
        if 'Moe/Mlp' in name:
            pieces = [[(e, e + 1), *whole[1:]] for e in range(len(x))]
        found = []
        for where in pieces:
            shard, count = count % shards, count + 1
            values = x[tuple(slice(a, b) for a, b in where)].reshape(-1)
            # Large pieces are lists of smaller ones.
            parts = [array(part) for part in np.array_split(values, 2)]
            entry = [parts, msgpack.ExtType(6, slices(where))]
            data[shard].setdefault(str(number), []).append(entry)
            found.append((slices(where), shard))
        shape = pack((x.shape, x.dtype.name, False, {}))
        if cut and len(found) > 1:
            found = found[1:]
        info = pack((shape, *zip(*found, strict=True)))
        *folders, last = name.split('/')
        at = tree
        for folder in folders:
            at = at.setdefault(folder, {})
        at[last] = msgpack.ExtType(8, info)
    index = {'shard_count': shards, 'index': tree, 'version': '20220622'}
    with open(f'{prefix}.index', 'wb') as file:
        file.write(pack(index | changes))
    for i, shard in enumerate(data):
        with open(f'{prefix}.data-{i:05d}-of-{shards:05d}', 'wb') as file:
            file.write(pack(shard))


def in_order(params):
    """Pairs of names and arrays as JAX orders the leaves of nested dicts."""
    return sorted(params.items(), key=lambda item: item[0].split('/'))

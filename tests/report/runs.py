"""Folders such as a run leaves, with numbers that are easy to tell."""

import json

import numpy as np

LAYERS = (1, 3)


def lines():
    """Four logged steps of two mixture layers of two experts."""
    for step in (1, 2, 3, 4):
        line = {
            'step': step,
            'train/loss': 6.0 - step,
            'train/load_balance': 1.0 + 1 / step,
            'train/router_z': 3.25,
            'train/tokens_per_second': 1234.4 * step,
        }
        for layer in LAYERS:
            name = f'moe/layer_{layer}'
            line[f'{name}/load'] = [0.5, 1.5]
            line[f'{name}/load_max'] = 1.5 + 0.25 * layer
            line[f'{name}/entropy'] = 0.5 / step
            line[f'{name}/dropped'] = 0.0
            line[f'{name}/max_violation'] = 0.5 + 0.25 * layer
        if step % 2 == 0:
            line['eval/loss'] = 2.0 - step / 8
            line['eval/bits_per_byte'] = 2.5 - step / 4
        yield line


# What 48 tokens of two sets, of which 4 are shown, came to in two layers of two
# experts; a token of layer 3 has only one.
ROUTING = {
    'texts': ['a', '<', '\n', ''],
    'set_of': [0, 0, 1, 1],
    'expert': [[[0, 1, 1, 0], [1, 0, 0, 1]], [[1, 1, 1, 1], [0, 0, 0, -1]]],
    'weight': [
        [[0.75, 0.5, 0.875, 1.0], [0.25, 0.5, 0.125, 0.0]],
        [[1.0, 0.625, 0.5, 1.0], [0.0, 0.375, 0.5, 0.0]],
    ],
    'sets': ['mail', 'a<b'],
    'counted': 48,
    'load': [[[0.5, 1.5], [1.0, 1.0]], [[1.5, 0.5], [1.0, 1.0]]],
    'together': [[[32, 16], [16, 24]], [[8, 8], [8, 48]]],
    'names': ['', 'x', ' y'],
    'listed': [[[1, 2], [2, 0]], [[0, 0], [1, 0]]],
    'share': [[[0.5, 0.25], [1.0, 0.0]], [[0.0, 0.0], [0.75, 0.0]]],
}


def write(folder, metrics=None, *, sample='def <b>&', routing=True, **config):
    """Writes the folder of a language model's run; returns it."""
    folder.mkdir(parents=True)
    plain = {
        'workload': 'lm',
        'losses': {'load_balance': 0.01, 'router_z': 0.001},
        'note': 'x < y',
        **config,
    }
    (folder / 'config.json').write_text(json.dumps(plain))
    metrics = list(lines()) if metrics is None else metrics
    text = ''.join(json.dumps(line) + '\n' for line in metrics)
    (folder / 'metrics.jsonl').write_text(text)
    if sample:
        (folder / 'sample.txt').write_text(sample)
    if routing:
        arrays = {name: np.array(value) for name, value in ROUTING.items()}
        np.savez(folder / 'routing.npz', **arrays)
    return folder

"""The smallest runs that have every part: plain configs and corpora."""

import contextlib
import random

import jax

from configs import lm
from moe import training
from moe.config import parse

SMALL = {
    'steps': 6,
    'model.d_model': 16,
    'model.num_layers': 2,
    'model.d_ff': 32,
    'model.moe.num_experts': 4,
    'model.moe.d_ff': 16,
    'model.moe.executor': 'indexed',
    'data.seq_len': 16,
    'data.batch_size': 8,
    'data.val_fraction': 0.25,
    'optimizer.warmup_steps': 2,
    'log_every': 1,
    'eval_every': 3,
    'checkpoint_every': 2,
    'keep_checkpoints': 9,
    'sample_length': 4,
}
WORDS = ('the', 'quick', 'brown', 'fox', 'jumps', 'over', 'it', 'and', 'runs\n')


def plain(changes=None, variant='quickstart'):
    """A small plain config; changes are by dotted name.

    The name `a.b` replaces the field b of the section a, new fields included.
    """
    return changed(lm.get_config(variant), {**SMALL, **(changes or {})})


def changed(config, changes):
    """A copy of a config as plain data, with changes by dotted name."""
    config = config.to_dict()
    for name, value in changes.items():
        *sections, field = name.split('.')
        section = config
        for part in sections:
            section = section[part]
        section[field] = value
    return config


def parsed(changes=None, variant='quickstart'):
    """The same as `plain`, checked."""
    return parse(training.Config, plain(changes, variant))


def model(changes=None, variant='quickstart'):
    """A small `LMConfig`; changes are by dotted name within it."""
    changes = {f'model.{k}': v for k, v in (changes or {}).items()}
    return parsed(changes, variant).model


def write_corpus(folder, files=4, size=400):
    """Writes text files of `size` bytes; returns the glob of them."""
    folder.mkdir(exist_ok=True)
    draw = random.Random(0)
    for i in range(files):
        text = ' '.join(draw.choices(WORDS, k=size))
        (folder / f'{i}.txt').write_text(text[:size])
    return str(folder / '*.txt')


@contextlib.contextmanager
def quick_compilation():
    """Compiles with little effort, which what runs for moments repays."""
    jax.config.update('jax_disable_most_optimizations', True)
    try:
        yield
    finally:
        jax.config.update('jax_disable_most_optimizations', False)

"""The smallest runs that have every part: plain configs and corpora."""

import contextlib
import json
import logging
import os
import random
import re

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

import moe.config
from moe import training
from moe.config import options, override
from moe.experts import ACTIVATIONS
from moe.workloads import registry
from moe.workloads.lm.model import LM
from moe.workloads.lm.workload import LanguageConfig

# Everything that a test counts on, whatever the config's defaults are.
SMALL = {
    'seed': 0,
    'steps': 6,
    'model.d_model': 16,
    'model.num_layers': 2,
    'model.num_heads': 2,
    'model.num_kv_heads': 2,
    'model.dense.hidden': 32,
    'model.dense.activation': 'swiglu',
    'model.dense.use_bias': False,
    'model.tie_embeddings': False,
    'model.moe_every': 1,
    'model.dtype': 'float32',
    'model.remat': 'none',
    'model.moe.num_experts': 4,
    'model.moe.experts.hidden': 16,
    'model.moe.experts.activation': 'swiglu',
    'model.moe.experts.use_bias': False,
    'model.moe.router.k': 2,
    'model.moe.jitter': 0.0,
    'model.moe.dispatcher': 'indexed',
    'model.moe.capacity': 'dropless',
    'model.moe.num_groups': None,
    'losses': {'load_balance': 0.01, 'router_z': 0.001},
    'data.seq_len': 16,
    'data.batch_size': 8,
    'data.source.val_fraction': 0.25,
    'optimizer.name': 'adamw',
    'optimizer.learning_rate': 3e-3,
    'optimizer.schedule': {
        'name': 'cosine',
        'warmup_steps': 2,
        'final_fraction': 0.1,
    },
    'optimizer.weight_decay': 0.1,
    'optimizer.clip_norm': 1.0,
    'optimizer.accumulation': 1,
    'log_every': 1,
    'eval_every': 3,
    'checkpoint_every': 2,
    'keep_checkpoints': 9,
    'sample_prompt': 'def ',
    'sample_length': 4,
}
WORDS = ('the', 'quick', 'brown', 'fox', 'jumps', 'over', 'it', 'and', 'runs\n')


def plain(changes=None):
    """A small plain config, of every field; changes are by dotted name."""
    values = merged(SMALL, changes or {})
    return override(LanguageConfig, {'workload': 'lm'}, values.items())


def merged(fixed, changes):
    """Changes by dotted name over others, sections over what is inside."""
    inside = lambda name: any(name.startswith(f'{c}.') for c in changes)
    return {n: v for n, v in fixed.items() if not inside(n)} | changes


def resolved(changes=None):
    """The same with every field, as a run keeps it."""
    return registry.plain_of(parsed(changes))


def changed(config, changes):
    """A copy of a config as plain data, with changes by dotted name."""
    return moe.config.changed(config.to_dict(), changes)


def parsed(changes=None):
    """The same as `plain`, checked."""
    return check(plain(changes))


def check(plain):
    """A plain config as the library takes it."""
    return registry.read_config(plain)


def model(changes=None):
    """A small `LMConfig`; changes are by dotted name within it."""
    changes = {f'model.{k}': v for k, v in (changes or {}).items()}
    return parsed(changes).model


def parameters(init, *args, scale=0.25):
    """Random parameters, and random biases, without compiling `init`.

    Args:
      init: of a linen module.
      *args: its inputs.
      scale: standard deviation of the matrices.

    Returns:
      The tree of NumPy arrays that `init` would make the like of.
    """
    shapes = jax.eval_shape(init, jax.random.key(0), *args)['params']
    draw = np.random.default_rng(0)

    def make(path, leaf):
        size = scale if leaf.ndim and 'scale' not in path[-1].key else 0.1
        values = size * draw.standard_normal(leaf.shape, np.float32)
        return values + np.float32('scale' in path[-1].key)

    return jax.tree_util.tree_map_with_path(make, shapes)


def state(config):
    """A train state of random parameters and zero moments, in NumPy."""
    shapes = jax.eval_shape(lambda: training.init_state(config))
    tokens = np.zeros((1, 2), np.int32)
    zeros = jax.tree.map(
        lambda s: np.zeros(s.shape, s.dtype), shapes._replace(key=None)
    )
    return zeros._replace(
        params=parameters(LM(config.model).init, tokens),
        key=jax.random.key(config.seed),
    )


def oracle_options(model):
    """A dropless `LMConfig` as `tests.reference.model` takes it."""
    activation = activation_of(model.dense)
    assert activation_of(model.moe.experts) == activation
    scales = ('embedding_scale', 'residual_scale', 'logit_scale')
    given = {name: getattr(model, name, None) for name in scales}
    return {
        **{name: v for name, v in given.items() if v is not None},
        'theta': model.rope and model.rope.theta,
        'epsilon': model.norm_epsilon,
        'activation': activation,
        'k': options(model.moe.router)['k'],
        'renormalize': options(model.moe.router)['renormalize'],
        'slots': None,
        'scope': 'global',
    }


def activation_of(network):
    """The activation of an `MLP`, as `tests.reference.experts` takes it."""
    activation = options(network)['activation']
    name, given = ACTIVATIONS.name_of(activation), options(activation)
    return (name, *given.values()) if given else name


def write_corpus(folder, files=4, size=400):
    """Writes text files of `size` bytes; returns the glob of them."""
    folder.mkdir(exist_ok=True)
    draw = random.Random(0)
    for i in range(files):
        text = ' '.join(draw.choices(WORDS, k=size))
        (folder / f'{i}.txt').write_text(text[:size])
    return str(folder / '*.txt')


def write_config(path, plain):
    """Writes a config file that gives a plain config; returns its path."""
    path.write_text(
        'import json\n'
        'import ml_collections\n\n'
        f'PLAIN = {json.dumps(plain)!r}\n\n\n'
        'def get_config():\n'
        '    return ml_collections.ConfigDict(json.loads(PLAIN))\n'
    )
    return path


def numbers(shape, seed, scale=1.0):
    """Normal float32 draws."""
    draw = np.random.default_rng(seed).standard_normal(shape)
    return np.float32(scale * draw)


@contextlib.contextmanager
def kept_programs(folder):
    """Compiles a program once for all the runs of it, by any process.

    Not for programs whose collectives may run at once: XLA for CPUs (jax
    0.10.2) gives them one identity when it reads a program back, and two that
    meet end the process.

    Yields the environment with which another process takes part.
    """
    settings = {
        'jax_enable_compilation_cache': True,
        'jax_compilation_cache_dir': str(folder),
        'jax_persistent_cache_min_compile_time_secs': 0.0,
        'jax_persistent_cache_min_entry_size_bytes': -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}

    def apply(values):
        for name, value in values.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()

    apply(settings)
    environment = {name.upper(): str(v) for name, v in settings.items()}
    try:
        yield {
            **os.environ,
            **environment,
            'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
        }
    finally:
        apply(before)


@contextlib.contextmanager
def compilations():
    """Collects the names of the functions compiled meanwhile."""
    names: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record):
            done = r'Finished XLA compilation of jit\((\w+)\)'
            names.extend(re.findall(done, record.getMessage()))

    listener = Listener()
    logging.getLogger('jax').addHandler(listener)
    try:
        with jax.log_compiles():
            yield names
    finally:
        logging.getLogger('jax').removeHandler(listener)

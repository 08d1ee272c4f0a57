"""Runs of one model in one process that trace its programs once."""

import contextlib
import functools
import json

import jax
import pytest

from moe.config import to_plain
from moe.training import step, workload

# Sections of the config that programs depend on.
_OF_PROGRAMS = (
    'average',
    'data',
    'divergence',
    'losses',
    'metrics',
    'mesh',
    'model',
    'optimizer',
    'seed',
    'steps',
)


def _key(config, names=_OF_PROGRAMS):
    plain = to_plain(type(config), config)
    return json.dumps({name: plain[name] for name in names}, sort_keys=True)


def _shared(make):
    """Makes the function of a config once: JAX traces a function once."""
    made = {}

    def get(config, own=None):
        key = _key(config)
        if key not in made:
            made[key] = make(config, own)
        return made[key]

    return get


def _shared_init():
    made = {}

    def get(config, key=None, workload=None):
        assert key is None
        name = _key(config)
        if name not in made:
            start = functools.partial(step.init_state, config, None, workload)
            made[name] = jax.jit(start)
        return made[name]()

    return get


def _shared_declarations():
    made = {}

    def get(init, key):
        name = _key(init.__self__._config, ('data', 'model'))
        if name not in made:
            made[name] = declared(init, key)
        return made[name]

    declared = workload.declared
    return get


@contextlib.contextmanager
def traced_once():
    """Shares programs between the runs inside the block.

    Yields `init_state`, shared too.
    """
    with pytest.MonkeyPatch.context() as patch:
        init = _shared_init()
        for module in ('loop', 'trainer'):
            patch.setattr(f'moe.training.{module}.init_state', init)
        train = _shared(step.make_train_step)
        patch.setattr('moe.training.step.make_train_step', train)
        evaluate = _shared(step.make_eval_step)
        patch.setattr('moe.training.trainer.make_eval_step', evaluate)
        declare = _shared_declarations()
        patch.setattr('moe.training.workload.declared', declare)
        yield init

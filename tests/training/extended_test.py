"""Runs that go on in their folder with another config."""

import functools
import json
import pathlib
import shutil
import sys
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
import pytest

from moe import training
from moe.config import ConfigError, Damaged
from moe.evaluate import evaluate_run
from moe.parallel import make_mesh, parameter_shardings
from moe.training import history
from moe.training.checkpoint import restore_run, saved_steps
from moe.training.clock import Clock
from moe.training.loop import on_mesh, train
from moe.training.step import init_state
from moe.training.warm_start import warm_start
from moe.training.watch import Watch
from tests import tiny
from tests.training import damage
from tests.training.evaluation_test import Sums
from tests.training.shared import traced_once
from tests.training.written import contents, lines

pytestmark = pytest.mark.slow

SHORT = {
    'model.num_layers': 1,
    'log_every': 1,
    'eval_every': 10,
    'checkpoint_every': 2,
    'sample_length': 0,
}
CONSTANT = {'name': 'constant', 'warmup_steps': 2}
STABLE = {'steps': 4, 'sample_prompt': 'it', 'optimizer.schedule': CONSTANT}
DECAYED = {
    'steps': 6,
    'optimizer.schedule': {
        **CONSTANT,
        'name': 'warmup_stable_decay',
        'decay_steps': 2,
    },
}


def start(folder, corpus, **changes):
    """Runs, or goes on; returns the config."""
    config = tiny.parsed({**SHORT, **corpus, **changes})
    assert training.run(config, folder)
    return config


def training_lines(folder):
    """The lines of metrics, without the evaluations."""
    drop = lambda line: {k: v for k, v in line.items() if k[:5] != 'eval/'}
    return [drop(line) for line in lines(folder)]


class Runs(NamedTuple):
    """A run of 6 steps that decays, and one that was stable and ended at 4."""

    corpus: dict
    config: Any
    whole: pathlib.Path
    stable: pathlib.Path


ONE = functools.partial(make_mesh, devices=jax.devices()[:1])


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Runs on one device, whose programs are soon compiled."""
    base = tmp_path_factory.mktemp('extended')
    corpus = {'data.source.files': tiny.write_corpus(base / 'corpus')}
    with (
        tiny.kept_programs(base / 'programs'),
        traced_once() as init,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys.modules[__name__], 'init_state', init)
        patch.setattr('moe.training.loop.make_mesh', ONE)
        patch.setattr('moe.workloads.opened.make_mesh', ONE)
        config = start(base / 'whole', corpus, **DECAYED)
        start(base / 'stable', corpus, **STABLE)
        yield Runs(corpus, config, base / 'whole', base / 'stable')


def test_a_finished_run_goes_on_into_a_decay(runs, tmp_path):
    folder = shutil.copytree(runs.stable, tmp_path / 'run')
    assert (folder / 'sample.txt').read_text() == 'it'
    more = {**DECAYED, 'checkpoint_every': 1}
    again = start(folder, runs.corpus, **more)
    # As if it had been one run, its results included.
    chex.assert_trees_all_equal(
        restore_run(again, folder), restore_run(runs.config, runs.whole)
    )
    assert training_lines(folder) == training_lines(runs.whole)
    assert (folder / 'sample.txt').read_text() == 'def '
    assert saved_steps(folder) == [2, 4, 5, 6]
    events = history.read(folder)
    assert [(e['event'], e.get('step')) for e in events] == [
        ('started', 0),
        ('finished', 4),
        ('changed', None),
        ('resumed', 4),
        ('finished', 6),
    ]
    assert events[2]['changes'] == {
        'steps': [4, 6],
        'checkpoint_every': [2, 1],
        'sample_prompt': ['it', 'def '],
        'optimizer.schedule.name': ['constant', 'warmup_stable_decay'],
        'optimizer.schedule.decay_steps': ['(absent)', 2],
        'optimizer.schedule.shape': ['(absent)', '1-sqrt'],
        'optimizer.schedule.final_fraction': ['(absent)', 0.0],
    }
    written = json.loads((folder / 'config.json').read_text())
    assert written['steps'] == 6
    # No longer what it was: neither shorter, nor on a cosine all the way.
    for changes, told in (
        ({'steps': 5}, 'config.steps: 6 there, 5 now (it may be 6 or more'),
        (
            {'optimizer.schedule': {'name': 'cosine', 'warmup_steps': 2}},
            'the learning rate of step 4 of the 6 taken would have been',
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            start(folder, runs.corpus, **{**more, **changes})
        assert told in caught.value.allowed


def test_a_branch_from_a_stable_checkpoint(runs, tmp_path, capsys):
    # With everything of the stable run's step 4 the last steps are those of a
    # run that had this schedule from the start.
    before, folder = contents(runs.stable), tmp_path / 'run'
    section = {'run': str(runs.stable), 'optimizer': True, 'data': True}
    config = start(folder, runs.corpus, **DECAYED, init_from=section)
    assert contents(runs.stable) == before
    chex.assert_trees_all_equal(
        restore_run(config, folder), restore_run(runs.config, runs.whole)
    )
    own = [line for line in training_lines(folder) if line['step'] > 4]
    assert own == training_lines(runs.whole)[-2:]
    assert saved_steps(folder) == [6]
    printed = capsys.readouterr().out
    assert f'starting from {runs.stable}, step 4:\n' in printed
    assert 'taken  head ' in printed
    started, _ = history.read(folder)
    assert started['event'] == 'started'
    assert started['step'] == 4
    taken = started['init_from']
    assert (taken['run'], taken['step']) == (str(runs.stable), 4)
    assert 'params/head' in taken['taken']
    assert 'guard/updates' in taken['taken']
    assert taken['new'] == taken['resized'] == taken['left'] == []


def warm(runs, tmp_path, make_mesh=ONE, **changes):
    """The parameters of a run after no step, with others as they are made."""
    config = tiny.parsed({**SHORT, **runs.corpus, **DECAYED, **changes})
    workload, mesh = config.make_workload(), make_mesh(config.mesh)
    config = on_mesh(config, mesh)
    make = lambda: init_state(config, workload=workload)
    with jax.set_mesh(mesh):
        where = parameter_shardings(
            mesh, jax.eval_shape(make), workload.parameters
        )
        first = jax.jit(make, out_shardings=where)()
        # Read before any buffer of the first state is used up.
        own = jax.device_get(first.params)
        made = warm_start(config, workload, tmp_path, first, mesh)
    return own, made


def test_parameters_onto_another_mesh(runs, tmp_path):
    # From one device onto eight, four of which share the experts; all leaves
    # that are taken have the values of there.
    section = {'run': str(runs.stable), 'optimizer': True}
    changes = {'mesh.expert': 4, 'init_from': section}
    own, made = warm(runs, tmp_path, make_mesh, **changes)
    config = tiny.parsed({**SHORT, **runs.corpus, **STABLE})
    other = jax.device_get(restore_run(config, runs.stable, step=4))
    assert np.any(own['head'] != other.params['head'])
    found = jax.device_get(made.state)
    for name in ('params', 'opt_state'):
        chex.assert_trees_all_equal(getattr(found, name), getattr(other, name))
    (experts,) = [
        leaf
        for path, leaf in jax.tree.leaves_with_path(made.state.params)
        if 'up' in jax.tree_util.keystr(path)
    ]
    assert len(experts.sharding.device_set) == 8
    assert experts.sharding.shard_shape(experts.shape)[1] == 1


def test_parameters_of_another_model(runs, tmp_path):
    own, made = warm(
        runs,
        tmp_path,
        **{
            'model.vocab_size': 300,
            'init_from': {
                'run': f'{runs.stable}:2',
                'map': {'embedding': 'resize', 'head': 'new', 'router': 'new'},
            },
        },
    )
    config = tiny.parsed({**SHORT, **runs.corpus, **STABLE})
    other = jax.device_get(restore_run(config, runs.stable, step=2).params)
    desired = jax.tree.map(lambda x: x, other)
    router = own['stack']['layers']['block_0']['moe']['router']
    desired['stack']['layers']['block_0']['moe']['router'] = router
    desired['head'] = own['head']
    rows = [other['embedding'], own['embedding'][256:]]
    desired['embedding'] = np.concatenate(rows)
    chex.assert_trees_all_equal(jax.device_get(made.state.params), desired)
    # The rest is that of a run that begins.
    assert (made.step, int(made.state.step), made.position) == (2, 0, None)
    assert not any(map(np.any, jax.tree.leaves(made.state.opt_state)))


def test_a_damaged_leaf_of_another_run(runs, tmp_path, capfd):
    folder = shutil.copytree(runs.stable, tmp_path / 'run')
    damage.flip_a_value(folder / 'checkpoints' / '4')
    section = {'run': str(folder), 'optimizer': True}
    _, made = warm(runs, tmp_path, init_from=section)
    assert made.step == int(made.state.step) == 2
    section = {**section, 'run': f'{folder}:4'}
    with pytest.raises(Damaged, match='4 is damaged: leaf '):
        warm(runs, tmp_path, init_from=section)
    assert saved_steps(folder) == [2, 4]


@pytest.mark.parametrize(
    ('changes', 'field', 'allowed'),
    [
        ({'init_from': '/no/run'}, 'init_from.run', "a run's folder"),
        ({'init_from': '{stable}:3'}, 'init_from.run', 'a checkpoint (2, 4)'),
        (
            {'init_from': '{stable}', 'model.d_model': 32},
            'init_from.map.embedding',
            'embedding is float32[256, 16] there and float32[256, 32] here',
        ),
        (
            {'init_from.run': '{stable}', 'init_from.map': {'heads': 'new'}},
            'init_from.map.heads',
            'absent: this run has no such parameter or part',
        ),
        (
            {
                'init_from.run': '{stable}',
                'init_from.optimizer': True,
                'optimizer.name': 'lion',
            },
            'init_from.optimizer',
            'False, as the optimizer differs: opt_state/',
        ),
        (
            {
                'init_from.run': '{stable}',
                'init_from.data': True,
                'seed': 1,
            },
            'init_from.data',
            'config.seed: 0 there, 1 now',
        ),
        (
            {
                'init_from.run': '{stable}',
                'init_from.optimizer': True,
                'steps': 4,
            },
            'steps',
            'more than the 4 of init_from',
        ),
    ],
    ids=str,
)
def test_a_run_that_does_not_fit_leaves_no_folder(
    runs, tmp_path, changes, field, allowed
):
    put = lambda v: (
        v.replace('{stable}', str(runs.stable)) if isinstance(v, str) else v
    )
    changes = {name: put(value) for name, value in changes.items()}
    with pytest.raises(ConfigError) as caught:
        start(tmp_path / 'run', runs.corpus, **{**DECAYED, **changes})
    assert caught.value.field == f'config.{field}'
    assert allowed in caught.value.allowed
    assert not (tmp_path / 'run').exists()


class Told:
    """A trainer without devices, whose evaluations have given losses."""

    start, clock = 0, Clock(9, Sums())

    def __init__(self, watch, losses):
        self._watch, self._losses, self.saved = watch, losses, []
        self.improved, self.ended = watch.improved, watch.ended

    def advance(self):
        return ()

    def evaluate(self):
        return iter(())

    def log(self, step, metrics, evaluation):
        if evaluation is not None:
            self._watch.note(step, {'eval/loss': self._losses[step]})

    def save(self, step):
        self.saved.append(step)


def test_the_loop_saves_the_best_and_ends():
    # Evaluated every second step, and saved every fourth.
    losses = {2: 3.0, 4: 2.0, 6: 1.0, 8: 5.0, 10: 4.0, 12: 0.0}
    best = {'best.keep': 1, 'best.patience': 2}
    every = {'eval_every': 2, 'checkpoint_every': 4, 'log_every': 100}
    config = tiny.parsed({'steps': 20, **every, **best})
    watch = Watch(config.best, Sums(), pathlib.Path('/no/run'), 0)
    trainer = Told(watch, losses)
    assert train(trainer, config) == 10
    assert trainer.saved == [2, 4, 6, 8, 10]


def test_an_average_and_an_early_end(runs, tmp_path, capsys):
    # The rate is so high that the loss soon rises.
    folder = tmp_path / 'run'
    changes = {
        **STABLE,
        'model.moe_every': 0,
        'steps': 30,
        'eval_every': 1,
        'checkpoint_every': 1,
        'keep_checkpoints': 30,
        'optimizer.learning_rate': 0.3,
        'average.decay': 0.4,
        'best.patience': 2,
    }
    config = start(folder, runs.corpus, **changes)
    losses = [line['eval/bits_per_byte'] for line in lines(folder)]
    steps, best = len(losses), int(np.argmin(losses)) + 1
    # It ends after two evaluations that are no better.
    assert steps == best + 2 < 30
    told = f'ends at step {steps}: eval/bits_per_byte of step {best} has not'
    assert told in capsys.readouterr().out
    *_, end = history.read(folder)
    assert (end['event'], end['step']) == ('finished', 30)
    assert end['ended_early_at'] == steps
    # The average of the parameters after every step, which is evaluated.
    first = jax.jit(lambda: init_state(config).params)()
    average = jax.tree.map(np.float64, jax.device_get(first))
    for t in range(1, steps + 1):
        decay = min(0.4, (1 + t) / (10 + t))
        state = jax.device_get(restore_run(config, folder, step=t))
        average = jax.tree.map(
            lambda a, p, d=decay: d * a + (1 - d) * p, average, state.params
        )
        chex.assert_trees_all_close(
            state.average, average, rtol=1e-4, atol=1e-6
        )
    assert state.variables['params'] is state.average
    found = evaluate_run(folder, 'best')
    assert found['step'] == best
    np.testing.assert_allclose(
        found['metrics']['eval/bits_per_byte'], losses[best - 1], rtol=1e-5
    )
    # It has ended, for the same command too.
    before = contents(folder)
    start(folder, runs.corpus, **changes)
    after = contents(folder)
    same = lambda files: {k: v for k, v in files.items() if k[:6] != 'tensor'}
    assert same(after) == same(before)

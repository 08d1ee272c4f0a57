"""Training on a real SLURM, through kill -9, preemption and two nodes."""

import json
import re
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from launch.backends import slurm_queue
from tests import commands, tiny

pytestmark = pytest.mark.slow

STEPS = 400  # a few seconds: no signal comes too late
SAVED = 50  # every so many steps
CHANGES = {
    'model.num_layers': 1,
    'steps': STEPS,
    'eval_every': STEPS,
    'checkpoint_every': SAVED,
    'optimizer.schedule': {'name': 'constant', 'warmup_steps': 2},
}
SPREAD = 30  # steps over two nodes
# Trials that differ in what does not change the curve.
SWEEP = """

def sweep():
    for keep in {keep}:
        yield {{'keep_checkpoints': keep}}
"""


class Sweep:
    """The command of a sweep, and what is in its folder."""

    def __init__(self, folder, keep, environment, *arguments):
        self.folder = folder
        corpus = tiny.write_corpus(folder.parent / 'corpus')
        config = tiny.write_config(
            folder.with_suffix('.py'),
            tiny.plain({'data.source.files': corpus, **CHANGES}),
        )
        config.write_text(config.read_text() + SWEEP.format(keep=keep))
        line = [f'--config={config}', f'--workdir={folder}', *arguments]
        with open(folder.with_suffix('.out'), 'w') as out:
            self.process = subprocess.Popen(
                [sys.executable, '-m', 'launch.sweep', *line],
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=commands.ROOT,
                env=environment,
            )

    def said(self):
        """What was said by the command, the trials and their jobs."""
        logs = [self.folder.with_suffix('.out'), *self.folder.glob('*/log*')]
        logs += self.folder.glob('.slurm/*/*.out')
        return '\n'.join(f'{log}:\n{log.read_text()}' for log in logs)

    def finish(self):
        """Waits for the command to succeed."""
        assert self.process.wait(500) == 0, self.said()


class Trial:
    """One of a sweep."""

    def __init__(self, sweep, name):
        self._sweep, self._name = sweep, name
        self._folder = sweep.folder / name

    def until(self, step):
        """Waits until a step has been logged."""
        self._wait(lambda: self._steps() >= step)

    def until_saved(self):
        """Waits until the first checkpoint is there."""
        self._wait((self._folder / 'checkpoints' / str(SAVED)).exists)

    def _wait(self, condition):
        end = time.monotonic() + 500
        while not condition():
            assert self._sweep.process.poll() is None, self._sweep.said()
            assert time.monotonic() < end, self._sweep.said()
            time.sleep(0.02)

    def _steps(self):
        path = self._folder / 'metrics.jsonl'
        return path.read_text().count('\n') if path.exists() else 0

    def preempt(self):
        """Does as SLURM does before it takes nodes away."""
        jobs = slurm_queue.jobs((self._sweep.folder / '.slurm').resolve())
        job = jobs[self._name].id
        subprocess.run(['scancel', '--signal=USR2', job], check=True)

    def kill(self):
        """Does as a kernel out of memory does."""
        for process in psutil.process_iter(['cmdline']):
            line = process.info['cmdline'] or ()
            # Not srun or the task, whose lines have those of the trial.
            ours = f'--workdir={self._folder}' in line
            if line[1:2] == ['train.py'] and ours:
                process.kill()
                return
        raise AssertionError(self._sweep.said())

    def log(self):
        return (self._folder / 'log.txt').read_text()

    def stop(self):
        """The one step at which it was asked to stop."""
        (step,) = re.findall(r'stopped at step (\d+)', self.log())
        return int(step)

    def start(self):
        """The one step from which it went on."""
        (step,) = re.findall(r'resuming from step (\d+)', self.log())
        return int(step)

    def losses(self, steps=STEPS):
        """The training loss of every step, each logged once, in order."""
        lines = (self._folder / 'metrics.jsonl').read_text().splitlines()
        found = [json.loads(line) for line in lines]
        assert [line['step'] for line in found] == [*range(1, steps + 1)]
        return np.array([line['train/loss'] for line in found])


@pytest.fixture
def start(cluster, tmp_path, monkeypatch):
    """Starts a sweep by its command, which ends with the test."""
    monkeypatch.setenv('SLURM_CONF', cluster['SLURM_CONF'])
    options = ['--backend=slurm', '--slurm.poll=1', '--parallel=3']
    sweeps = []

    def begin(name, keep, environment, *more):
        given = {**cluster, **environment}
        sweeps.append(Sweep(tmp_path / name, keep, given, *options, *more))
        return sweeps[-1]

    yield begin
    for sweep in sweeps:
        sweep.process.kill()
        sweep.process.wait()


@pytest.fixture
def alone(tmp_path):
    """Of trials of one process on one device, which share their programs.

    Not of two processes: one would have to wait for the other to compile, for
    longer than collectives do.
    """
    with tiny.kept_programs(tmp_path / 'programs') as kept:
        yield {**kept, 'JAX_NUM_CPU_DEVICES': '1'}


def test_trials_survive(start, alone):
    one = start('one', [1, 2, 3], alone)
    names = [f'keep_checkpoints={keep}' for keep in (1, 2, 3)]
    whole, killed, preempted = (Trial(one, name) for name in names)
    killed.until_saved()
    killed.kill()
    preempted.until(3)
    preempted.preempt()
    one.finish()
    losses = whole.losses()
    assert 'resuming' not in whole.log()
    # From its last checkpoint.
    np.testing.assert_array_equal(killed.losses(), losses)
    assert 'stopped' not in killed.log()
    assert killed.start() % SAVED == 0
    # From the step at which it was asked.
    np.testing.assert_array_equal(preempted.losses(), losses)
    assert preempted.start() == preempted.stop()


@pytest.mark.long
def test_a_trial_over_two_nodes_survives(start, alone):
    fewer = [f'--config.{name}={SPREAD}' for name in ('steps', 'eval_every')]
    together = {'JAX_NUM_CPU_DEVICES': '4'}
    two = start('two', [4], together, '--slurm.nodes=2', *fewer)
    spread = Trial(two, 'trial')
    spread.until(3)
    spread.preempt()
    two.finish()
    one = start('one', [4], alone, *fewer)
    one.finish()
    # On eight devices, where sums are in another order.
    found, losses = spread.losses(SPREAD), Trial(one, 'trial').losses(SPREAD)
    np.testing.assert_allclose(found, losses, rtol=1e-3)
    assert spread.start() == spread.stop()
    assert '8 cpu device(s)' in spread.log()

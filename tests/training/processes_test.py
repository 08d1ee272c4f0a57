"""One run in several processes, on the loopback of this machine.

The same small run of experts split over eight devices, however many processes
have them: it is stopped, killed, and goes on, and its curve is that of one
process.
"""

import json
import pathlib
import re
import shutil
import signal
from typing import NamedTuple

import numpy as np
import pytest

import moe.config
from moe import training
from moe.metrics import read_metrics
from moe.training.folder import write_plain_config
from moe.workloads.vision.confusion import Confusion
from tests import table_run, tiny
from tests.commands import Result
from tests.training.started import Started
from tests.workloads.vision import workload_test as vision_test

pytestmark = pytest.mark.slow

STEPS = 16
CHANGES = {
    'steps': STEPS,
    'model.num_layers': 1,
    'sample_length': 0,
    'mesh.data': 1,
    'mesh.fsdp': 2,
    'mesh.expert': 4,
    'model.moe.communication': 'all_to_all',
    'eval_every': 8,
    'checkpoint_every': 2,
}
# The loss of a process that is gone comes with a traceback of what waited.
LAST_WORDS = r'process (\d) of 2 ends, and so will the others: (\w+): (.*)'


@pytest.fixture(scope='module')
def environment(tmp_path_factory):
    with tiny.kept_programs(tmp_path_factory.mktemp('programs')) as values:
        yield values


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    corpus = tiny.write_corpus(tmp_path_factory.mktemp('text') / 'corpus')
    return tiny.plain({**CHANGES, 'data.source.files': corpus})


def curve(folder):
    """What describes each step, and the evaluations."""
    metrics = read_metrics(folder / 'metrics.jsonl')
    assert [m['step'] for m in metrics] == list(range(1, STEPS + 1))
    names = ('train/loss', 'train/load_balance', 'train/grad_norm')
    names += ('moe/layer_0/load_max', 'moe/layer_0/entropy')
    found = [[m[name] for name in names] for m in metrics]
    return np.array(found), [
        m['eval/loss'] for m in metrics if 'eval/loss' in m
    ]


def checkpoints(folder):
    """Those that are whole: who is killed may leave one half written."""
    names = [path.name for path in (folder / 'checkpoints').iterdir()]
    return sorted(int(name) for name in names if name.isdecimal())


@pytest.fixture(scope='module')
def alone(plain, environment, tmp_path_factory):
    """The curve of one process, on the eight devices of this one."""
    folder = tmp_path_factory.mktemp('alone') / 'run'
    assert training.run(tiny.check(plain), folder)
    return curve(folder)


class Died(NamedTuple):
    """A run of two processes that stopped, went on, and died.

    Attributes:
      folder: its folder.
      stopped: a copy of it, from when it had stopped.
      line: its command line.
      resumed: the step of its last checkpoint.
    """

    folder: pathlib.Path
    stopped: pathlib.Path
    line: list[str]
    resumed: int


@pytest.fixture(scope='module')
def died(plain, environment, tmp_path_factory):
    root = tmp_path_factory.mktemp('died')
    config = tiny.write_config(root / 'config.py', plain)
    folder = root / 'run'
    line = [f'--config={config}', f'--workdir={folder}']

    # SIGTERM to one of two while the step is compiled: both stop after the
    # same step, which is saved.
    with Started(root / 'first', 2 * [line], environment) as run:
        run.wait_for('parameters, ')
        run.processes[1].send_signal(signal.SIGTERM)
        first, second = run.end()
    assert (first.code, second.code) == (0, 0), (first, second)
    (stop,) = checkpoints(folder)[-1:]
    assert 1 <= stop < STEPS
    last = first.out.splitlines()[-1]
    assert last == f'stopped at step {stop}; the same command resumes it'
    assert second.out == ''
    assert read_metrics(folder / 'metrics.jsonl')[-1]['step'] == stop
    shutil.copytree(folder, root / 'stopped')

    # The same command goes on, and the death of one ends the other.
    with Started(root / 'second', 2 * [line], environment) as run:
        run.wait_for(f'resuming from step {stop}\n')
        run.wait_for(rf'step +{stop + 3}/')
        run.processes[1].kill()
        first, second = run.end(30)
    assert second.code == -signal.SIGKILL
    assert first.code != 0
    assert not (folder / 'sample.txt').exists()
    assert re.search(LAST_WORDS, first.err) or 'another task died' in first.err
    resumed = checkpoints(folder)[-1]
    assert stop <= resumed < STEPS
    return Died(folder, root / 'stopped', line, resumed)


@pytest.fixture(scope='module')
def moved(plain):
    """The run on another mesh, of one process."""
    mesh = {'data': 2, 'fsdp': 1, 'expert': 2, 'tensor': 2, 'replica': 1}
    return tiny.check({**plain, 'mesh': mesh})


def test_one_goes_on_where_two_died(moved, alone, died, tmp_path):
    folder = tmp_path / 'run'
    shutil.copytree(died.folder, folder)
    assert training.run(moved, folder)
    assert_equal(curve(folder), alone)


@pytest.mark.long
def test_one_goes_on_where_two_stopped(moved, alone, died):
    assert training.run(moved, died.stopped)
    assert_equal(curve(died.stopped), alone)


@pytest.mark.long
def test_four_go_on_and_not_from_what_is_no_checkpoint(
    alone, died, environment, tmp_path
):
    folder, _, line, resumed = died
    (folder / 'checkpoints' / str(STEPS)).mkdir()
    with Started(tmp_path / 'run', 4 * [line], environment) as run:
        first, *others = run.end()
    assert first.code == 0, first
    assert [other[:2] for other in others] == 3 * [(0, '')]
    assert f'resuming from step {resumed}\n' in first.out
    assert '8 cpu device(s)' in first.out
    told = f'{folder}/checkpoints/{STEPS} is damaged: '
    assert [run.err.count(told) for run in (first, *others)] == [1, 0, 0, 0]
    report = folder / 'report' / 'index.html'
    assert first.out.splitlines()[-1] == f'report: {report}'
    assert report.exists()
    assert (folder / 'sample.txt').read_text() == 'def '
    assert (folder / 'routing.npz').exists()
    assert checkpoints(folder)[-1] == STEPS
    assert_equal(curve(folder), alone)


def assert_equal(found, desired):
    """Compares curves."""
    for values, others in zip(found, desired, strict=True):
        np.testing.assert_allclose(values, others, rtol=1e-4)


# What Python runs in the place of train.py: runs one after the other, which
# may be refused; of a fragile one the second process cannot read its third
# batch.
PROGRAM = """
import json, pathlib, sys
from moe import training
from moe.config import ConfigError
from moe.training import processes
from moe.workloads import registry
from moe.workloads.lm import workload as language

runs, coordinator, count, index = sys.argv[1:]
value = lambda argument: argument.partition('=')[2]
processes.start(value(coordinator), int(value(count)), int(value(index)))
given = language.train_batches

class Fragile:
    def __init__(self, *args):
        self.batches, self.count = given(*args), 0
        self.get_state = self.batches.get_state
        self.set_state = self.batches.set_state

    def __iter__(self):
        return self

    def __next__(self):
        self.count += 1
        if value(index) == '1' and self.count == 3:
            raise OSError('the disk is gone')
        return next(self.batches)

for plain, workdir in json.loads(runs):
    broken = workdir.endswith('fragile')
    language.train_batches = Fragile if broken else given
    try:
        config = registry.read_config(plain)
        training.run(config, pathlib.Path(workdir))
    except ConfigError as error:
        print(error, flush=True)
"""


def test_errors_in_one_of_two(plain, environment, tmp_path):
    for name in ('0', '1'):
        (tmp_path / name).mkdir()
        tiny.write_corpus(tmp_path / name / 'corpus')
    text = tmp_path / '1' / 'corpus' / '0.txt'
    text.write_text(text.read_text()[::-1])
    broken, new = str(tmp_path / 'fragile'), str(tmp_path / 'new')
    plain = {**plain, 'checkpoint_every': STEPS}
    other_data = moe.config.changed(
        plain, {'data.source.files': 'corpus/*.txt'}
    )
    other_seed = {**plain, 'seed': 1}
    runs = [(other_data, new), (plain, new), (plain, 'own'), (plain, broken)]
    of_second = [runs[0], (other_seed, new), *runs[2:]]
    with Started(
        tmp_path / 'printed',
        [[json.dumps(runs)], [json.dumps(of_second)]],
        environment,
        [tmp_path / '0', tmp_path / '1'],
        ['-c', PROGRAM],
    ) as started:
        started.wait_for('step  1/')
        first, second = started.end(30)

    # All refuse what one does.
    data, config, own, *steps = first.out.splitlines()
    assert steps[0].endswith('8 cpu device(s)')
    assert 'must be the same in all processes' in data
    assert 'data.fingerprint: ' in data
    assert 'config.seed: 0 there, 1 now' in config
    message = "workdir = 'own': must be one folder that all processes see"
    assert own == f'process 1: {message}'
    assert second.out.splitlines() == [data, config, message]
    assert not (tmp_path / 'new').exists()
    assert not (tmp_path / '1' / 'own').exists()

    # What fails in one ends all.
    assert (first.code != 0, second.code) == (True, 1)
    assert 'Traceback' in second.err
    last = second.err.splitlines()[-1]
    words = re.fullmatch(LAST_WORDS, last)
    assert words.groups() == ('1', 'OSError', 'the disk is gone')


def test_every_task(environment, tmp_path):
    # What is left of a run by two processes, and by one where it is more than
    # a sample.
    draw = np.random.default_rng(0)
    images = {
        'x': draw.random((20, 4, 4), np.float32),
        'y': np.arange(20) % 3,
    }
    np.savez(tmp_path / 'images.npz', **images)
    table = table_run.write(tmp_path / 'table.csv', table_run.rows(120))
    plains = {
        'images': vision_test.plain(
            str(tmp_path / 'images.npz'), 'dense', steps=2, eval_every=2
        ),
        'table': table_run.plain(table, steps=2),
        'text': tiny.plain(
            {
                'data.source.files': tiny.write_corpus(tmp_path / 'corpus'),
                'steps': 2,
                'optimizer.schedule.warmup_steps': 1,
                'model.num_layers': 1,
                'model.moe_every': 0,
            }
        ),
    }
    runs = [(p, str(tmp_path / name)) for name, p in plains.items()]
    line = [json.dumps(runs)]
    with Started(
        tmp_path / 'out', 2 * [line], environment, program=['-c', PROGRAM]
    ) as started:
        first, second = started.end()
    assert (first.code, second.code) == (0, 0), (first, second)
    assert (
        len((tmp_path / 'text' / 'sample.txt').read_text()) == len('def ') + 4
    )
    # Rows of both processes: a quarter of the images, whole columns.
    path = tmp_path / 'images' / 'confusion.json'
    confusion = Confusion.read(path).matrix
    assert confusion.sum() == 5
    last = read_metrics(tmp_path / 'images' / 'metrics.jsonl')[-1]
    accuracy = np.trace(confusion) / 5
    np.testing.assert_allclose(last['eval/accuracy'], accuracy, rtol=1e-6)
    plain = plains['table']
    assert training.run(tiny.check(plain), tmp_path / 'alone')
    found, desired = (
        json.loads((tmp_path / name / 'results.json').read_text())
        for name in ('table', 'alone')
    )
    assert len(desired) > 10
    assert found == pytest.approx(desired, rel=1e-4)


def test_what_one_sees_all_refuse(plain, environment, tmp_path):
    # The command itself: only one finds an earlier run in its folder.
    config = tiny.write_config(tmp_path / 'config.py', plain)
    cwds = [tmp_path / '0', tmp_path / '1']
    for cwd in cwds:
        cwd.mkdir()
    (cwds[0] / 'run').mkdir()
    write_plain_config(cwds[0] / 'run', {**plain, 'seed': 3})
    line = [f'--config={config}', '--workdir=run']
    with Started(tmp_path / 'out', 2 * [line], environment, cwds) as started:
        first, second = started.end(60)
    message = "workdir = 'run': must be a new folder, or one of the same run: "
    message += 'config.seed: 3 there, 0 now, and config.init_from takes '
    message += 'parameters to a new folder\n'
    assert first == Result(2, '', f'train.py: {message}')
    assert second == Result(2, '', f'train.py: process 0: {message}')
    assert not (cwds[1] / 'run').exists()

"""The pool of processes, on trials that only say what they were given."""

import dataclasses
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest

from launch.backends import local
from launch.trials import Trial
from moe.config import ConfigError, parse

pytestmark = pytest.mark.slow

# Writes what it has to its folder, then does what it was told to.
_SCRIPT = """
import json, os, pathlib, signal, sys, time
folder, what = pathlib.Path(sys.argv[1]), sys.argv[2]
starts = folder / 'starts'
count = len(starts.read_text()) if starts.exists() else 0
begun = time.monotonic()
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
(folder / 'given.json').write_text(json.dumps({
    'cores': sorted(os.sched_getaffinity(0)),
    'session': os.getsid(0) == os.getpid(),
    'devices': os.environ.get('JAX_NUM_CPU_DEVICES'),
    'gpus': os.environ.get('CUDA_VISIBLE_DEVICES'),
}))
starts.write_text('x' * (count + 1))
if what == 'fail' or what == 'fail once' and not count:
    sys.exit('it broke')
if what == 'die':
    os.kill(os.getpid(), signal.SIGKILL)
while what == 'wait' and not stopped or what == 'ignore':
    time.sleep(0.01)
if what not in ('wait', 'leave'):
    time.sleep(0.3)
    (folder / 'done').write_text(json.dumps([begun, time.monotonic()]))
"""


@dataclasses.dataclass(frozen=True)
class _Trial(Trial):
    """A trial that is no run."""

    def newest(self):
        return {}

    def done(self):
        return (self.folder / 'done').exists()

    def read(self, name):
        return json.loads((self.folder / name).read_text())

    def starts(self):
        path = self.folder / 'starts'
        return len(path.read_text()) if path.exists() else 0


def make(tmp_path, *whats):
    script = tmp_path / 'script.py'
    script.write_text(_SCRIPT)
    trials = []
    for i, what in enumerate(whats):
        folder = tmp_path / f'{i}'
        command = (str(script), str(folder), what)
        trials.append(_Trial(f'{i}', {}, {'steps': 9}, folder, command))
    return trials


def options(**given):
    defaults = {f.name: f.default for f in dataclasses.fields(local.Options)}
    return parse(local.Options, defaults | given, 'local')


def run(trials, parallel=1, retries=0, **given):
    local.run(trials, options(**given), parallel=parallel, retries=retries)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(local, '_POLL', 0.02)


def test_one_after_the_other(tmp_path):
    trials = make(tmp_path, 'end', 'end')
    run(trials)
    (first, second) = (t.read('done') for t in trials)
    assert first[1] <= second[0]
    assert all(trial.read('given.json')['session'] for trial in trials)


def test_several_at_a_time(tmp_path):
    # Three at a time: the fourth waits for one of them to end.
    trials = make(tmp_path, *4 * ['end'])
    run(trials, parallel=3)
    spans = [trial.read('done') for trial in trials]
    assert max(begun for begun, _ in spans[:3]) < min(e for _, e in spans[:3])
    assert spans[3][0] >= min(end for _, end in spans[:3])


def test_others_go_on_when_one_fails(tmp_path, capfd):
    # Twice more for the first; once more mends the second.
    trials = make(tmp_path, 'fail', 'fail once', 'die', 'end')
    run(trials, retries=2)
    assert [trial.starts() for trial in trials] == [3, 2, 3, 1]
    assert [trial.done() for trial in trials] == [False, True, False, True]
    out, err = capfd.readouterr()
    assert 'failed      0  step 0/9  attempt 3' in out
    assert 'done        1  step 0/9  attempt 2' in out
    broken, killed = err.splitlines()
    assert 'trial 0: failed 3 time(s), exit code 1: it broke (' in broken
    assert str(trials[0].folder / 'log.txt') in broken
    assert 'trial 2: failed 3 time(s), exit code -9: no output' in killed


def test_a_trial_that_was_stopped_is_not_failed(tmp_path, capfd):
    # Exit code 0, but not done: it is left for the next call.
    (trial,) = make(tmp_path, 'leave')
    run([trial], retries=5)
    assert trial.starts() == 1
    out, err = capfd.readouterr()
    assert 'interrupted 0' in out
    assert err == ''


def test_signals(tmp_path):
    # All that run are told, and waited for; the third is never started.
    trials = make(tmp_path, 'wait', 'wait', 'end')

    def stop():
        while not all((t.folder / 'starts').exists() for t in trials[:2]):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        run(trials, parallel=2, retries=3)
    thread.join()
    assert [trial.starts() for trial in trials] == [1, 1, 0]
    assert signal.getsignal(signal.SIGTERM) is before
    for trial in trials:  # nobody writes to the logs any more
        local._open_log(trial).close()


def test_a_second_signal_kills(tmp_path):
    (trial,) = make(tmp_path, 'ignore')

    def stop():
        while not (trial.folder / 'starts').exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run([trial])
    thread.join()


def test_two_sweeps_of_one_folder(tmp_path):
    # A process that outlived its sweep holds the log; nothing is started.
    waiting, other = make(tmp_path, 'wait', 'end')
    with local._open_log(waiting) as log:
        child = subprocess.Popen(
            [sys.executable, *waiting.command], stdout=log, stderr=log
        )
    try:
        with pytest.raises(ConfigError, match='an earlier sweep still runs'):
            run([other, waiting])
        assert other.starts() == 0
    finally:
        child.kill()
        child.wait()
    run([other])
    assert other.done()


def test_devices(tmp_path):
    trials = make(tmp_path, 'end', 'end')
    run(trials[:1], devices=3)
    given = trials[0].read('given.json')
    assert given['devices'] == '3'
    run(trials[1:], devices=2, gpus='5,7,8')
    assert trials[1].read('given.json')['gpus'] == '5,7'


def test_cores(tmp_path):
    there = sorted(os.sched_getaffinity(0))
    (trial,) = make(tmp_path, 'end')
    run([trial], cores=1)
    assert trial.read('given.json')['cores'] == there[:1]
    assert sorted(os.sched_getaffinity(0)) == there


def test_xla_has_as_many_threads_as_cores():
    # What pinning is for: XLA's pool follows the affinity.
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip('one core: there is nothing to tell apart')
    count = (
        'import os, jax; jax.numpy.ones(3).block_until_ready(); '
        'names = [open(f"/proc/self/task/{t}/comm").read().strip() '
        'for t in os.listdir("/proc/self/task")]; '
        'print(sum("XLAEigen" in n for n in names))'
    )
    pin = 'import os; os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))'
    threads = [
        subprocess.run(
            [sys.executable, '-c', f'{pin}[:{cores}]); {count}'],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, 'JAX_NUM_CPU_DEVICES': '1'},
        ).stdout
        for cores in (1, 2)
    ]
    assert [int(n) for n in threads] == [1, 2]


@pytest.mark.parametrize(
    ('given', 'parallel', 'expected'),
    [
        # Shared out: two each; the fifth core is nobody's.
        ({}, 2, [((0, 1), '1'), ((2, 3), '1')]),
        # Six trials on five cores take turns on the first.
        ({'devices': 2}, 6, [((i % 5,), '2') for i in range(6)]),
        ({'cores': 1}, 3, [((0,), '1'), ((1,), '1'), ((2,), '1')]),
    ],
)
def test_slots(monkeypatch, given, parallel, expected):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(5)))
    found = local.slots(options(**given), parallel)
    assert found == [
        (cores, {'JAX_NUM_CPU_DEVICES': devices}) for cores, devices in expected
    ]


def test_without_pinning(tmp_path, monkeypatch):
    # Elsewhere than on Linux.
    monkeypatch.setattr(local, '_PINS', False)
    monkeypatch.setattr(os, 'cpu_count', lambda: 4)
    assert [slot.cores for slot in local.slots(options(), 2)] == [(), ()]
    (trial,) = make(tmp_path, 'end')
    run([trial])
    assert trial.done()
    (line,) = local.dry_run([trial], options(), parallel=1, retries=0)
    assert 'taskset' not in line


@pytest.mark.parametrize(
    ('given', 'line'),
    [
        ({'cores': 3}, 'local.cores = 3: must be at most 2'),
        ({'gpus': '0,1,2', 'devices': 2}, "'0,1,2': must be 4 or more"),
    ],
)
def test_too_little_for_all(monkeypatch, given, line):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(5)))
    with pytest.raises(ConfigError, match=line):
        local.slots(options(**given), 2)


def test_dry_run(tmp_path):
    # What it prints does what it would do.
    trials = make(tmp_path, 'end', 'end')
    lines = list(
        local.dry_run(trials, options(devices=4), parallel=1, retries=0)
    )
    assert not any(trial.folder.exists() for trial in trials)
    for trial, line in zip(trials, lines, strict=True):
        trial.folder.mkdir()
        subprocess.run(line, shell=True, check=True)
        given = trial.read('given.json')
        assert given['devices'] == '4'
        assert given['cores'] == list(local.slots(options(), 1)[0].cores)
        assert shlex.split(line)[-3:] == list(trial.command)


def test_folder_that_cannot_be(tmp_path):
    (trial,) = make(tmp_path, 'end')
    file = tmp_path / 'file'
    file.write_text('')
    other = dataclasses.replace(trial, folder=pathlib.Path(file / 'x'))
    with pytest.raises(ConfigError, match='must be a folder'):
        run([other])

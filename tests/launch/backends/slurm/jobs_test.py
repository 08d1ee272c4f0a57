"""Trials as jobs of a real SLURM; what they train is no matter here."""

import contextlib
import dataclasses
import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest

from launch import progress
from launch.backends import slurm, slurm_queue
from moe.config import ConfigError

pytestmark = pytest.mark.slow

# What a trial does, on its first start and on others: a line of Python.
DONE = "open(folder + '/done', 'w')"
FAIL = 'raise SystemExit(3)'
WAIT = 'time.sleep(300)'
# As train.py, which saves a checkpoint and says that all is well.
STOP = f'signal.signal(signal.SIGTERM, lambda *_: os._exit(0)); {WAIT}'


@dataclasses.dataclass(frozen=True)
class Trial:
    """Stands in for a trial of a sweep."""

    folder: pathlib.Path
    first: str
    others: str = DONE
    slurm: dict = dataclasses.field(default_factory=dict)
    plain = {'steps': 1}

    @property
    def name(self):
        return self.folder.name

    @property
    def command(self):
        code = f"""
import os, signal, time
folder, rank = {str(self.folder)!r}, os.environ['SLURM_PROCID']
starts = folder + '/starts.' + rank
print('start', file=open(starts, 'a'))
if len(open(starts).readlines()) == 1:
    {self.first}
else:
    {self.others}
"""
        return ('-c', code)

    def newest(self):
        return {}

    def step(self):
        return 0

    def done(self):
        return (self.folder / 'done').exists()

    def starts(self, rank=0):
        path = self.folder / f'starts.{rank}'
        return path.read_text().count('start') if path.exists() else 0


@pytest.fixture
def here(cluster, monkeypatch):
    """Puts this process on the cluster."""
    for name, value in cluster.items():
        monkeypatch.setenv(name, value)


OPTIONS = slurm.Options(poll=1, minutes=5)


def eventually(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_trials_end_in_every_way(here, tmp_path, capsys):
    base = tmp_path / 'a sweep'
    fine = Trial(base / 'fine', DONE)
    fails = Trial(base / 'fails', FAIL, FAIL)
    mends = Trial(base / 'mends', FAIL)
    stops = Trial(base / 'stops', STOP)
    limited = Trial(base / 'limited', STOP)
    cancelled = Trial(base / 'cancelled', WAIT)
    trials = [fine, fails, mends, stops, limited, cancelled]
    # Asked to stop 10 s after its start, or when SLURM next looks.
    options = dataclasses.replace(OPTIONS, minutes=1, grace=50)

    def signals():
        eventually(lambda: cancelled.starts() == stops.starts() == 1)
        jobs = slurm_queue.jobs((base / '.slurm').resolve())
        subprocess.run(['scancel', jobs['cancelled'].id], check=True)
        asked = ['scancel', '--signal=TERM', jobs['stops'].id]
        subprocess.run(asked, check=True)

    user = threading.Thread(target=signals)
    user.start()
    slurm.run(trials, options, parallel=6, retries=1)
    user.join()
    done = {trial.name for trial in trials if trial.done()}
    assert done == {'fine', 'mends', 'stops', 'limited'}
    # A failure is tried once more, a stop goes on, what is cancelled is left.
    assert [t.starts() for t in trials] == [1, 2, 2, 2, 2, 1]
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        f'trial fails: failed at step 0 (FAILED); see {fails.folder}/log.txt',
        'trial cancelled: cancelled at step 0 (CANCELLED); '
        f'see {cancelled.folder}/log.txt',
    ]
    assert 'done        mends  step 0/1  attempt 2' in said.out
    # They were one array, and nothing was added to what a dry run prints.
    (submission,) = (base / '.slurm').iterdir()
    text = (submission / 'job.sh').read_text()
    assert '--array=0-5%6' in text
    assert 'wckey' not in text


def test_the_death_of_one_process_ends_its_trial(here, tmp_path):
    # The second of two fails while the first waits; both are started again.
    second_fails = f"""
    while rank == '1':
        if os.path.exists(folder + '/starts.0'):
            {FAIL}
        time.sleep(.1)
    {WAIT}"""
    trial = Trial(tmp_path / 'sweep' / 'a', second_fails)
    options = dataclasses.replace(OPTIONS, nodes=2)
    slurm.run([trial], options, parallel=1, retries=1)
    assert trial.done()
    assert (trial.starts(0), trial.starts(1)) == (2, 2)
    logs = {path.name for path in trial.folder.glob('log*')}
    assert logs == {'log.txt', 'log.1.txt'}


def test_trials_have_resources_of_their_own(here, tmp_path):
    base = tmp_path / 'sweep'
    small = Trial(base / 'small', DONE)
    large = Trial(base / 'large', DONE, slurm={'nodes': 2})
    slurm.run([small, large], OPTIONS, parallel=2, retries=0)
    assert (small.done(), large.done()) == (True, True)
    assert (small.starts(0), small.starts(1)) == (1, 0)
    assert (large.starts(0), large.starts(1)) == (1, 1)
    assert len(list((base / '.slurm').iterdir())) == 2


def test_a_trial_goes_on_elsewhere_when_its_node_fails(here, tmp_path, capsys):
    say = "print(os.environ['SLURMD_NODENAME'], file=open(folder + '/on', 'a'))"
    trial = Trial(tmp_path / 'sweep' / 'a', f'{say}; {WAIT}', f'{say}; {DONE}')
    node, state = [], ['scontrol', 'update']

    def fail():
        eventually((trial.folder / 'on').exists)
        time.sleep(2)  # the command has seen where it runs
        jobs = slurm_queue.jobs((tmp_path / 'sweep/.slurm').resolve())
        node.append(jobs['a'].nodes)
        state.append(f'nodename={node[0]}')
        # What is only down comes back as soon as it says that it is there.
        for failed in ('DRAIN', 'DOWN'):
            line = [*state, f'state={failed}', 'reason=test']
            subprocess.run(line, check=True)

    admin = threading.Thread(target=fail)
    admin.start()
    slurm.run([trial], OPTIONS, parallel=1, retries=0)
    admin.join()
    subprocess.run([*state, 'state=RESUME'], check=True)
    assert (trial.starts(), trial.done()) == (2, True)
    first, second = (trial.folder / 'on').read_text().split()
    assert first == node[0] != second
    said = capsys.readouterr()
    job = slurm_queue.jobs((tmp_path / 'sweep/.slurm').resolve())['a'].id
    assert said.err.splitlines() == [
        f'trial a: {first} failed, job {job} is for other nodes'
    ]
    assert 'done        a  step 0/1  attempt 2' in said.out
    asked = ['squeue', '--noheader', '--states=all', '--format=%x']
    left_out = subprocess.run([*asked, f'--jobs={job}'], capture_output=True)
    assert left_out.stdout.decode().split() == [first]


def test_jobs_are_found_again(here, tmp_path, capsys, monkeypatch):
    base = tmp_path / 'sweep'
    trial = Trial(base / 'a', f'time.sleep(3); {DONE}')
    done = Trial(base / 'b', DONE)
    shown = []

    @contextlib.contextmanager
    def interrupted():
        def show(rows):
            shown.append(rows)
            if trial.starts():
                raise KeyboardInterrupt

        yield show

    with monkeypatch.context() as patched:
        patched.setattr(progress, 'display', interrupted)
        with pytest.raises(KeyboardInterrupt):
            slurm.run([trial, done], OPTIONS, parallel=2, retries=1)
    job = slurm_queue.jobs((base / '.slurm').resolve())['a']
    assert f'scancel {job.array} ends them' in capsys.readouterr().out
    slurm.run([trial], OPTIONS, parallel=2, retries=1)
    assert trial.done()
    assert trial.starts() == 1
    assert len(list((base / '.slurm').iterdir())) == 1


def test_what_is_over_is_submitted_anew(here, tmp_path):
    base = tmp_path / 'sweep'
    trial = Trial(base / 'a', FAIL)
    slurm.run([trial], OPTIONS, parallel=2, retries=0)
    assert (trial.starts(), trial.done()) == (1, False)
    slurm.run([trial], OPTIONS, parallel=2, retries=0)
    assert (trial.starts(), trial.done()) == (2, True)
    assert len(list((base / '.slurm').iterdir())) == 2


def test_sbatch_refuses(here, tmp_path):
    options = dataclasses.replace(OPTIONS, partition='gpu')
    trials = [Trial(tmp_path / 'sweep' / 'a', DONE)]
    with pytest.raises(ConfigError) as caught:
        slurm.run(trials, options, parallel=1, retries=0)
    given, _, reason = str(caught.value).partition(': must be ')
    assert given.startswith('slurm = ')
    assert '--partition=gpu' in given
    assert reason.startswith('accepted by sbatch: ')
    assert 'invalid partition specified: gpu' in reason


def test_pasted_dry_run_runs_the_trials(here, tmp_path):
    base = tmp_path / "a user's sweep"
    trials = [Trial(base / name, DONE) for name in ('a', 'b')]
    for trial in trials:
        trial.folder.mkdir(parents=True)
    options = dataclasses.replace(OPTIONS, cpus_per_task=2)
    lines = slurm.dry_run(trials, options, parallel=2, retries=0)
    subprocess.run(
        ['bash', '-e'], input='\n'.join(lines), text=True, check=True
    )
    eventually(lambda: all(t.done() for t in trials))
    assert [t.starts() for t in trials] == [1, 1]


def test_a_container_gets_its_words_whole(here, tmp_path, monkeypatch):
    # A program in the place of apptainer, with its order of arguments; a real
    # one is not needed to see what SLURM and the shells make of them.
    program, said = tmp_path / 'bin' / 'apptainer', tmp_path / 'said'
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/bash\nprintf "%s\\n" "${{@:1:4}}" > {said}; exec "${{@:5}}"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv('PATH', f'{program.parent}:{os.environ["PATH"]}')
    base = tmp_path / "a user's sweep"
    trial = Trial(base / 'a', DONE)
    options = dataclasses.replace(
        OPTIONS,
        container='my image.sif',
        container_by='apptainer',
        python=sys.executable,
    )
    slurm.run([trial], options, parallel=1, retries=0)
    assert trial.done()
    where = pathlib.Path.cwd()
    assert said.read_text().splitlines() == [
        'exec',
        f'--bind={where}:{where},{base}:{base}',
        f'--pwd={where}',
        'my image.sif',
    ]


def test_what_is_submitted_is_what_the_dry_run_prints(here, tmp_path):
    base = tmp_path / "a user's sweep"
    trial = Trial(base / 'a', DONE)
    lines = list(slurm.dry_run([trial], OPTIONS, parallel=1, retries=0))
    slurm.run([trial], OPTIONS, parallel=1, retries=0)
    script = (base / '.slurm' / '1' / 'job.sh').read_text()
    printed = '\n'.join(lines).partition("<<'END'\n")[2]
    assert printed.partition('END\n')[0] == script


def test_a_job_that_can_never_run_is_told_at_once(here, tmp_path, capfd):
    # In a partition that is down; by and by it is up again.
    trial = Trial(tmp_path / 'sweep' / 'a', DONE)
    state = ['scontrol', 'update', 'partitionname=debug']
    subprocess.run([*state, 'state=DOWN'], check=True)

    def mend():
        eventually(lambda: 'cannot start' in capfd.readouterr().err)
        subprocess.run([*state, 'state=UP'], check=True)

    user = threading.Thread(target=mend)
    user.start()
    try:
        slurm.run([trial], OPTIONS, parallel=1, retries=0)
    finally:
        user.join()
    assert trial.done()


def test_a_stop_is_repeated_no_more_often_than_allowed(here, tmp_path):
    # As a trial does that is asked to stop again and again.
    again = f"open(folder + '/ready', 'a'); {STOP}"
    trial = Trial(tmp_path / 'sweep' / 'a', again, again)
    options = dataclasses.replace(OPTIONS, requeues=1)

    def signals():
        for count in (1, 2):
            eventually(lambda count=count: trial.starts() == count, 60)
            time.sleep(1)
            jobs = slurm_queue.jobs((tmp_path / 'sweep/.slurm').resolve())
            asked = ['scancel', '--signal=USR2', jobs['a'].id]
            subprocess.run(asked, check=True)

    user = threading.Thread(target=signals)
    user.start()
    slurm.run([trial], options, parallel=1, retries=0)
    user.join()
    assert (trial.starts(), trial.done()) == (2, False)
    (out,) = (tmp_path / 'sweep/.slurm/1').glob('*.out')
    assert 'as often as slurm.requeues allows' in out.read_text()

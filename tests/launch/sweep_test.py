"""The command: what it refuses, what it runs, and how it goes on."""

import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest

from launch import memory_check, sweep
from moe.metrics import read_metrics
from tests import commands, tiny
from tests.launch import sweeps

pytestmark = pytest.mark.slow

# The mesh of the first wants more devices than there are.
TRIALS = [
    {'mesh.fsdp': fsdp, 'seed': seed} for fsdp, seed in ((3, 0), (1, 0), (1, 1))
]
BROKEN, *FINE = ('fsdp=3,seed=0', 'fsdp=1,seed=0', 'fsdp=1,seed=1')


@pytest.fixture(scope='module')
def programs(tmp_path_factory):
    """The environment of processes that share what is compiled."""
    with tiny.kept_programs(tmp_path_factory.mktemp('programs')) as environment:
        yield environment


def command(*arguments):
    return [sys.executable, '-m', 'launch.sweep', *map(str, arguments)]


def run(arguments, environment):
    done = subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        cwd=commands.ROOT,
        env=environment,
    )
    return commands.Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope='module')
def swept(tmp_path_factory, programs):
    """A sweep of three trials, one of which fails; and again, mended by none.

    What each came to, and the folder as it was in between.
    """
    base = tmp_path_factory.mktemp('swept')
    config = sweeps.write(base, sweeps.of_list(TRIALS), {'model.moe_every': 0})
    folder = base / 'runs'
    arguments = [f'--config={config}', f'--workdir={folder}', '--parallel=2']
    first = run(arguments, programs)
    stamps = {
        name: (folder / name / 'metrics.jsonl').stat().st_mtime_ns
        for name in FINE
    }
    second = run([*arguments, '--retries=0'], programs)
    return folder, first, second, stamps


def test_the_others_go_on(swept):
    folder, first, _, _ = swept
    assert first.code == 1, first
    assert first.out.startswith('3 trials\n')
    for name in FINE:
        found = read_metrics(folder / name / 'metrics.jsonl')
        assert [line['step'] for line in found] == [1, 2, 3]
        assert (folder / name / 'report' / 'index.html').exists()
        assert 'step 3/3' in (folder / name / 'log.txt').read_text()


def test_a_failing_trial_is_tried_again(swept):
    # By default once, and not at all in the second call.
    folder, first, _, _ = swept
    log = (folder / BROKEN / 'log.txt').read_text()
    assert log.count('train.py: config.mesh = ') == 3
    failed, missing = first.err.splitlines()
    assert failed.startswith(f'trial {BROKEN}: failed 2 time(s), exit code 2: ')
    assert 'config.mesh' in failed
    assert missing == (
        'launch.sweep: 1 trial(s) not done, the same command resumes them: '
        + BROKEN
    )


def test_manifest(swept):
    folder, *_ = swept
    found = json.loads((folder / 'sweep.json').read_text())
    assert list(found['trials']) == [BROKEN, *FINE]
    assert found['fields'] == ['mesh.fsdp', 'seed']
    for name, changes in zip([BROKEN, *FINE], TRIALS, strict=True):
        trial = found['trials'][name]
        assert trial['changes'] == changes
        assert trial['command'][0] == 'train.py'
        assert trial['command'][-1] == f'--workdir={folder / name}'
    head = subprocess.run(
        ['git', 'rev-parse', 'HEAD'],
        capture_output=True,
        text=True,
        cwd=commands.ROOT,
    ).stdout.strip()
    assert (found['commit'] or '').rstrip('+') == head


def test_only_what_is_not_done_is_started_again(swept):
    folder, _, second, stamps = swept
    assert second.code == 1
    assert second.out.startswith('3 trials, 2 of them done already\n')
    assert FINE[0] not in second.out.partition('| fsdp')[0]
    for name, stamp in stamps.items():
        path = folder / name / 'metrics.jsonl'
        assert path.stat().st_mtime_ns == stamp
    assert f'trial {BROKEN}: failed 1 time(s)' in second.err


def test_results_of_what_is_done(swept):
    folder, first, second, _ = swept
    found = json.loads((folder / 'results.json').read_text())
    losses = [found['trials'][n]['metrics']['eval/loss'] for n in FINE]
    for name, loss in zip(FINE, losses, strict=True):
        last = read_metrics(folder / name / 'metrics.jsonl')[-1]
        assert last['eval/loss'] == loss
    (group,) = found['groups']
    assert group['metrics']['eval/loss']['mean'] == pytest.approx(
        sum(losses) / 2
    )
    assert found['best'] == min(zip(losses, FINE, strict=True))[1]
    table = first.out[first.out.index('| fsdp') :]
    assert table == second.out[second.out.index('| fsdp') :]
    assert f'page: {folder / "results.html"}\n' in table
    assert '2 of 3 trials are done' in (folder / 'results.html').read_text()


def wait_for(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, 'it takes too long'
        time.sleep(0.02)


def test_killed_stopped_and_going_on(tmp_path, programs):
    # Killed outright; then Ctrl-C in the middle; then to the end. No step is
    # logged twice or left out.
    config = sweeps.write(
        tmp_path,
        sweeps.of_list([{'seed': 0}]),
        {
            'steps': 700,
            'model.moe_every': 0,
            'checkpoint_every': 200,
            'eval_every': 700,
            'keep_checkpoints': 1,
        },
    )
    folder = tmp_path / 'runs'
    arguments = [f'--config={config}', f'--workdir={folder}', '--retries=0']
    metrics = folder / 'trial' / 'metrics.jsonl'

    def last():
        lines = read_metrics(metrics) if metrics.exists() else []
        return lines[-1]['step'] if lines else 0

    def start():
        return subprocess.Popen(
            command(*arguments),
            cwd=commands.ROOT,
            env=programs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    process = start()
    wait_for(lambda: metrics.exists() and metrics.stat().st_size, process)
    wait_for(lambda: last() > 220, process)
    child = pathlib.Path(f'/proc/{process.pid}/task/{process.pid}/children')
    os.kill(int(child.read_text().split()[0]), signal.SIGKILL)
    out, err = process.communicate()
    assert process.returncode == 1
    assert 'failed 1 time(s), exit code -9' in err

    reached = last()
    assert 220 < reached < 700
    process = start()
    wait_for(lambda: last() > reached + 20, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130, (out, err)
    again = shlex.join(['python', '-m', 'launch.sweep', *arguments])
    assert err.strip() == f'launch.sweep: stopped; to resume: {again}'
    log = (folder / 'trial' / 'log.txt').read_text()
    assert 'resuming from step ' in log
    stopped = last()
    assert f'stopped at step {stopped}; the same command resumes it' in log

    process = start()
    out, err = process.communicate()
    assert (process.returncode, err) == (0, '')
    log = (folder / 'trial' / 'log.txt').read_text()
    assert f'resuming from step {stopped}\n' in log
    steps = [line['step'] for line in read_metrics(metrics)]
    assert steps == list(range(1, 701))


def wrong(tmp_path, capsys, *arguments, text=None, code=2):
    """What the command says; nothing is started, nothing is written."""
    trials = [{'model.moe.router.k': 1}, {'model.moe.router.k': 2}]
    config = sweeps.write(tmp_path, text or sweeps.of_list(trials))
    folder = tmp_path / 'runs'
    given = [f'--config={config}', f'--workdir={folder}', *arguments]
    assert sweep.main(['sweep', *given]) == code
    out, err = capsys.readouterr()
    assert not folder.exists()
    return out, err


WRONG = {
    'a trial of many': (
        ['--config.model.moe.num_experts=1'],
        'trial k=2: config.model.moe.router.k = 2: must be at most num_experts',
    ),
    'swept field': (
        ['--config.model.moe.router.k=1'],
        'must be absent: the sweep changes config.model.moe.router.k',
    ),
    'unknown field': (['--config.step=1'], 'config.step', '(nearest: steps)'),
    'unknown flag': (['--paralel=2'], '--paralel', '(nearest: --parallel)'),
    'no trial at a time': (
        ['--parallel=0'],
        '--parallel = 0: must be at least 1',
    ),
    'unknown backend': (['--backend=here'], 'one of local, slurm, tpu'),
    'unknown option': (['--local.core=1'], 'no such option (nearest: cores)'),
    'word for a number': (['--local.cores=x'], 'local.cores', 'an int'),
    'number out of range': (
        ['--local.devices=0'],
        'local.devices = 0: must be at least 1',
    ),
    'too many cores': (['--local.cores=9999'], 'must be at most'),
    'no such chip': (['--plan=v9:4x4'], '--plan', 'v5p:4x4x4'),
    'no workdir': (['--workdir='], '--workdir', 'given'),
}


@pytest.mark.parametrize('name', WRONG)
def test_wrong_command_lines(tmp_path, capsys, name):
    arguments, *words = WRONG[name]
    out, err = wrong(tmp_path, capsys, *arguments)
    (line,) = err.splitlines()
    assert line.startswith('launch.sweep: ')
    for word in words:
        assert word in line
    assert out == ''


def test_backend_that_is_not_installed(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sweep.BACKENDS, 'slurm', 'launch.no_such_module')
    _, err = wrong(tmp_path, capsys, '--backend=slurm')
    assert err == (
        "launch.sweep: --backend = 'slurm': must be one that is installed "
        '(there is no module launch.no_such_module)\n'
    )


def test_another_sweep_in_the_folder(tmp_path, capsys):
    config = sweeps.write(tmp_path, sweeps.of_list([{'seed': 0}, {'seed': 1}]))
    folder = tmp_path / 'runs'
    folder.mkdir()
    # As it would be after a sweep of more steps.
    argv = ['sweep', f'--config={config}', f'--workdir={folder}']
    found = sweep.read_sweep(config, {'steps': 9}, folder)
    sweep.manifest.write(folder, found)
    assert sweep.main(argv) == 2
    assert capsys.readouterr().err == (
        f"launch.sweep: --workdir = '{folder}': must be a new folder, or one "
        'of the same sweep: sweep.config.steps: 9 there, 3 now\n'
    )


def test_dry_run(tmp_path, capsys):
    out, err = wrong(tmp_path, capsys, '--dry_run', '--config.steps=9', code=0)
    assert err == ''
    for k, line in zip((1, 2), out.splitlines(), strict=True):
        *_, script, config, steps, choices, workdir = shlex.split(line)
        assert script == 'train.py'
        assert config == f'--config={tmp_path / "config.py"}'
        assert steps == '--config.steps=9'
        assert choices == f'--config.model.moe.router.k={k}'
        assert workdir == f'--workdir={tmp_path / "runs" / f"k={k}"}'


GIB = 2**30


def test_plan(tmp_path, capsys, monkeypatch):
    # Two of four do not fit, one of them cannot be planned; seeds share a plan.
    planned = []

    def planner(arguments, **_):
        planned.append([a for a in arguments if '.k=' in a])
        assert '--topology=v5p:4x4x8' in arguments
        k = int(planned[-1][0][-1])
        if k == 3:
            return subprocess.CompletedProcess(
                arguments, 2, '', 'launch.plan: config.mesh = 1: must be 2\n'
            )
        (path,) = (a[7:] for a in arguments if a.startswith('--json='))
        memory = {'sum': k * 60 * GIB, 'there': 95 * GIB, 'fits': k == 1}
        pathlib.Path(path).write_text(json.dumps({'memory': memory}))
        return subprocess.CompletedProcess(arguments, 0, '', '')

    monkeypatch.setattr(memory_check.subprocess, 'run', planner)
    trials = [
        {'model.moe.router.k': k, 'seed': seed}
        for k, seed in ((1, 0), (1, 1), (2, 0), (3, 0))
    ]
    _, err = wrong(
        tmp_path, capsys, '--plan=v5p:4x4x8', text=sweeps.of_list(trials)
    )
    assert [n for n in err.splitlines() if not n.startswith('planning')] == [
        'launch.sweep: trial k=2,seed=0: memory a chip = 120.0 GiB: must be '
        'at most 95 GiB',
        'launch.sweep: trial k=3,seed=0: config.mesh = 1: must be 2',
    ]
    assert len(planned) == 3

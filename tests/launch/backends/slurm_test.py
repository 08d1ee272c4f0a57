"""SLURM's backend as far as it goes without SLURM."""

import pathlib
import stat
import sys

import pytest

from launch.backends import slurm
from launch.trials import Trial
from moe.config import ConfigError, parse

# Of two trials of two nodes with two GPUs each; the machine's paths replaced.
GOLDEN = """\
mkdir -p HERE/runs/routers/.slurm
sbatch <<'END'
#!/bin/bash
#SBATCH --job-name=routers
#SBATCH --array=0-1%2
#SBATCH --output=HERE/runs/routers/.slurm/%A_%a.out
#SBATCH --signal=TERM@120
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=2
#SBATCH --mem=64G
#SBATCH --time=90
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --constraint='a100|h100'
#SBATCH --exclusive
case $SLURM_ARRAY_TASK_ID in
0) srun --kill-on-bad-exit=1 --cpus-per-task=8 --label PYTHON train.py \
--config=c.py '--config.losses={"z": 0.1}' --workdir=runs/routers/a \
--distributed
;;
1) srun --kill-on-bad-exit=1 --cpus-per-task=8 --label PYTHON train.py \
--config=c.py '--config.losses={"z": 0.2}' --workdir=runs/routers/b \
--distributed
;;
esac
END
"""
OPTIONS = slurm.Options(
    nodes=2,
    gpus_per_node=2,
    cpus_per_task=8,
    memory='64G',
    minutes=90,
    partition='gpu',
    sbatch="--constraint='a100|h100' --exclusive",
    srun='--label',
)


def trial(name, z=0.1):
    folder = pathlib.Path('runs/routers') / name
    line = ('--config=c.py', f'--config.losses={{"z": {z}}}')
    command = ('train.py', *line, f'--workdir={folder}')
    return Trial(name, {'losses': {'z': z}}, {}, folder, command)


def test_dry_run_is_copied_and_pasted():
    trials = [trial('a'), trial('b', 0.2)]
    lines = slurm.dry_run(trials, OPTIONS, parallel=2, retries=1)
    text = ''.join(f'{line}\n' for line in lines)
    text = text.replace(sys.executable, 'PYTHON')
    assert text.replace(str(pathlib.Path.cwd()), 'HERE') == GOLDEN


def test_nothing_left_to_run():
    assert list(slurm.dry_run([], OPTIONS, parallel=2, retries=1)) == []


@pytest.mark.parametrize(
    ('given', 'tasks'),
    [
        ({}, 1),
        ({'nodes': 2}, 2),
        ({'nodes': 2, 'gpus_per_node': 4}, 8),  # one process a GPU
        ({'gpus_per_node': 4, 'tasks_per_node': 1}, 1),  # one drives all
        ({'nodes': 2, 'tasks_per_node': 3}, 6),
    ],
)
def test_processes_of_a_trial(given, tasks):
    options = slurm.Options(**given)
    assert options.tasks == tasks
    (line,) = [
        line
        for line in slurm.dry_run([trial('a')], options, parallel=1, retries=0)
        if line.startswith('0) ')
    ]
    assert line.endswith(' --distributed') == (tasks > 1)


WRONG = {
    'one process of many GPUs': (
        {'nodes': 2, 'gpus_per_node': 4, 'tasks_per_node': 1},
        'slurm.tasks_per_node = 1: must be gpus_per_node (4): a process '
        'drives one GPU',
    ),
    'no time': (
        {'minutes': 0},
        'slurm.minutes = 0: must be at least 1',
    ),
    'more grace than time': (
        {'minutes': 2, 'grace': 120},
        'slurm.grace = 120: must be less than the 120 s of the time limit',
    ),
    'a word': (
        {'sbatch': '--exclusive a100'},
        "slurm.sbatch = '--exclusive a100': must be '--name=value' "
        "('a100' is not)",
    ),
    'a quote': (
        {'srun': "--label='a"},
        'slurm.srun = "--label=\'a": must be as a shell takes it '
        '(No closing quotation)',
    ),
}


@pytest.mark.parametrize('name', WRONG)
def test_wrong_options(name):
    given, line = WRONG[name]
    defaults = {
        name: field.default
        for name, field in slurm.Options.__dataclass_fields__.items()
    }
    with pytest.raises(ConfigError) as caught:
        parse(slurm.Options, {**defaults, **given}, 'slurm')
    assert str(caught.value) == line


def run(options=OPTIONS):
    with pytest.raises(ConfigError) as caught:
        slurm.run([trial('a')], options, parallel=1, retries=0)
    return str(caught.value)


def test_no_slurm(monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    assert run() == (
        "--backend = 'slurm': must be used where sbatch is, as on the login "
        'node of a cluster'
    )


@pytest.fixture
def silent(monkeypatch, tmp_path):
    """Commands of SLURM that reach no controller."""
    for name in ('sbatch', 'squeue'):
        command = tmp_path / name
        command.write_text('#!/bin/sh\necho "$0: no\ncontroller" >&2\nexit 1\n')
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv('PATH', f'{tmp_path}:/bin:/usr/bin')
    return tmp_path


def test_no_submitit(silent, monkeypatch):
    monkeypatch.setitem(sys.modules, 'submitit', None)
    assert run() == (
        "--backend = 'slurm': must be used with submitit "
        "(pip install 'moe[slurm]')"
    )


def test_no_answer(silent):
    assert run() == (
        "--backend = 'slurm': must be used where squeue answers "
        f'({silent}/squeue: no controller)'
    )

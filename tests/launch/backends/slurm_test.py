"""SLURM's backend as far as it goes without SLURM."""

import pathlib
import re
import shlex
import stat
import subprocess
import sys

import pytest

from launch.backends import slurm, slurm_queue
from launch.trials import Trial
from moe.config import ConfigError, parse

# Of two trials of two nodes with two GPUs each; the machine's paths replaced.
GOLDEN = """\
# warning: slurm.cpus_per_task = 2: a process that drives 1 GPU(s) is likely \
to wait for its input with less than 4
mkdir -p HERE/runs/routers/.slurm/1
tee HERE/runs/routers/.slurm/1/job.sh > /dev/null <<'END'
#!/bin/bash
#SBATCH --job-name=routers
#SBATCH --array=0-1%2
#SBATCH --output=HERE/runs/routers/.slurm/1/%A_%a.out
#SBATCH --signal=USR2@120
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=2
#SBATCH --gpus-per-node=h100:2
#SBATCH --mem=64G
#SBATCH --time=90
#SBATCH --partition=gpu
#SBATCH --constraint='a100|h100'
#SBATCH --mail-user=me@here
#SBATCH --mail-type=END,FAIL
#SBATCH --requeue
#SBATCH --comment='a b'
#SBATCH --exclusive
module load cuda
mark=HERE/runs/routers/.slurm/1/again_$SLURM_ARRAY_TASK_ID
case $SLURM_ARRAY_TASK_ID in
0)
: trial a
srun --kill-on-bad-exit=1 --cpus-per-task=2 --label PYTHON \
-m launch.backends.slurm_process "$mark" runs/routers/a -- train.py \
--config=c.py '--config.losses={"z": 0.1}' --workdir=runs/routers/a \
--distributed
;;
1)
: trial b
srun --kill-on-bad-exit=1 --cpus-per-task=2 --label PYTHON \
-m launch.backends.slurm_process "$mark" runs/routers/b -- train.py \
--config=c.py '--config.losses={"z": 0.2}' --workdir=runs/routers/b \
--distributed
;;
esac
code=$?
if [ -e "$mark" ]; then
  rm "$mark"
  if [ "${SLURM_RESTART_COUNT:-0}" -lt 7 ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
  else
    echo 'queued again 7 times, as often as slurm.requeues allows'
    exit 1
  fi
fi
exit $code
END
sbatch HERE/runs/routers/.slurm/1/job.sh
"""
OPTIONS = slurm.Options(
    nodes=2,
    gpus_per_node='h100:2',
    cpus_per_task=2,
    memory='64G',
    minutes=90,
    requeues=7,
    partition='gpu',
    constraint='a100|h100',
    mail='me@here',
    sbatch="--comment='a b' --exclusive",
    srun='--label',
    setup='module load cuda',
)


def trial(name, z=0.1, **own):
    folder = pathlib.Path('runs/routers') / name
    line = ('--config=c.py', f'--config.losses={{"z": {z}}}')
    command = ('train.py', *line, f'--workdir={folder}')
    changes = {'losses': {'z': z}}
    return Trial(name, changes, {}, folder, command, slurm=own)


def test_dry_run_is_copied_and_pasted():
    trials = [trial('a'), trial('b', 0.2)]
    lines = slurm.dry_run(trials, OPTIONS, parallel=2, retries=1)
    text = ''.join(f'{line}\n' for line in lines)
    text = text.replace(sys.executable, 'PYTHON')
    assert text.replace(str(pathlib.Path.cwd()), 'HERE') == GOLDEN


def test_trials_of_other_resources_are_an_array_of_their_own():
    large = {'nodes': 4, 'minutes': 600, 'gpus_per_node': 'h200:8'}
    trials = [trial('a'), trial('b', **large), trial('c'), trial('d', **large)]
    lines = list(slurm.dry_run(trials, OPTIONS, parallel=3, retries=1))
    text = '\n'.join(lines)
    scripts = text.split('END\n')[:-1]
    named = [
        [x.split()[-1] for x in script.splitlines() if x.startswith(': trial')]
        for script in scripts
    ]
    assert named == [['a', 'c'], ['b', 'd']]
    wanted = ['nodes', 'time', 'gpus-per-node', 'ntasks-per-node', 'array']
    wanted += ['mem', 'partition']
    found = [
        {n: re.search(f'#SBATCH --{n}=(.*)', s)[1] for n in wanted}
        for s in scripts
    ]
    same = {'mem': '64G', 'partition': 'gpu', 'array': '0-1%3'}
    two = {'nodes': '2', 'gpus-per-node': 'h100:2', 'ntasks-per-node': '2'}
    four = {'nodes': '4', 'gpus-per-node': 'h200:8', 'ntasks-per-node': '8'}
    assert found[0] == {**same, **two, 'time': '90'}
    assert found[1] == {**same, **four, 'time': '600'}
    paths = [line.split()[1] for line in lines if line.startswith('sbatch ')]
    assert [pathlib.Path(path).parent.name for path in paths] == ['1', '2']


@pytest.mark.parametrize(
    ('own', 'line'),
    [
        ({'nodes': 0}, 'slurm.nodes = 0: must be at least 1'),
        ({'poll': 1}, 'slurm.poll = 1: must be absent: it is the same for all'),
        ({'gpus': 8}, 'slurm.gpus = 8: must be '),
        ({'grace': 9000}, 'slurm.grace = 9000: must be less than the 5400 s'),
    ],
)
def test_wrong_options_of_a_trial(own, line):
    with pytest.raises(ConfigError) as caught:
        list(slurm.dry_run([trial('a', **own)], OPTIONS, parallel=1, retries=0))
    assert str(caught.value).startswith(f'trial a: {line}')


def test_nothing_left_to_run():
    assert list(slurm.dry_run([], OPTIONS, parallel=2, retries=1)) == []


@pytest.mark.parametrize(
    ('given', 'tasks'),
    [
        ({}, 1),
        ({'nodes': 2}, 2),
        ({'nodes': 2, 'gpus_per_node': '4'}, 8),  # one process a GPU
        ({'gpus_per_node': 'h100:4', 'tasks_per_node': 1}, 1),
        (
            {'nodes': 2, 'gpus_per_node': '4', 'tasks_per_node': 1},
            2,
        ),  # one drives all
        ({'nodes': 2, 'tasks_per_node': 3}, 6),
    ],
)
def test_processes_of_a_trial(given, tasks):
    options = slurm.Options(**given)
    assert options.tasks == tasks
    (line,) = [
        line
        for line in slurm.dry_run([trial('a')], options, parallel=1, retries=0)
        if line.startswith('#SBATCH --ntasks-per-node=')
    ]
    assert int(line.partition('=')[2]) * options.nodes == tasks


WRONG = {
    'a process of some GPUs': (
        {'nodes': 2, 'gpus_per_node': '4', 'tasks_per_node': 2},
        'slurm.tasks_per_node = 2: must be 1 or gpus_per_node (4): a process '
        'drives one or all',
    ),
    'no number of GPUs': (
        {'gpus_per_node': 'h100'},
        "slurm.gpus_per_node = 'h100': must be a number, or TYPE:NUMBER, such "
        "as 'h100:8'",
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


def test_no_answer(silent):
    assert run() == (
        "--backend = 'slurm': must be used where squeue answers "
        f'({silent}/squeue: no controller)'
    )


def srun(**given):
    """The words of srun of a trial."""
    options = slurm.Options(**given)
    lines = slurm.dry_run([trial('a')], options, parallel=1, retries=0)
    text = '\n'.join(lines)
    (line,) = (x for x in text.splitlines() if x.startswith('srun '))
    return shlex.split(line)


def test_one_process_drives_all_gpus_of_its_node():
    words = srun(nodes=2, gpus_per_node='4', tasks_per_node=1)
    folder = words.index('runs/routers/a')
    assert words[folder : folder + 4] == [
        *('runs/routers/a', '--all', '--', 'train.py'),
    ]
    assert words[-1] == '--distributed'
    assert '--all' not in srun(nodes=2, gpus_per_node='4')
    assert '--all' not in srun(gpus_per_node='4', tasks_per_node=1)


def test_containers_see_this_folder_and_the_sweep():
    here = pathlib.Path.cwd()
    mounts = f'{here}:{here},{here}/runs/routers:{here}/runs/routers'
    words = srun(container='org#moe:cuda')
    assert words[2:6] == [
        '--container-image=org#moe:cuda',
        f'--container-mounts={mounts}',
        f'--container-workdir={here}',
        'python',
    ]
    words = srun(
        container='moe.sif', container_by='apptainer', gpus_per_node='8'
    )
    assert words[2:9] == [
        *('apptainer', 'exec', '--nv', f'--bind={mounts}', f'--pwd={here}'),
        *('moe.sif', 'python'),
    ]
    assert srun(python='/usr/bin/python')[2] == '/usr/bin/python'


def test_gpus_that_wait_for_their_input_are_told():
    few = slurm.Options(gpus_per_node='4', cpus_per_task=3)
    assert len(few.warnings()) == 1
    enough = [
        slurm.Options(gpus_per_node='4', cpus_per_task=4),
        slurm.Options(cpus_per_task=1),
        slurm.Options(gpus_per_node='4', cpus_per_task=16, tasks_per_node=1),
    ]
    assert [options.warnings() for options in enough] == [[], [], []]
    assert slurm.Options(gpus_per_node='1').warnings()


@pytest.mark.parametrize(
    ('reason', 'never', 'said'),
    [
        ('None', False, 'waiting'),
        ('Priority', False, 'waiting (Priority)'),
        ('Resources', False, 'waiting (Resources)'),
        ('PartitionTimeLimit', True, 'waiting (PartitionTimeLimit)'),
        (
            'ReqNodeNotAvail, UnavailableNodes:n1',
            True,
            'waiting (ReqNodeNotAvail, UnavailableNodes:n1)',
        ),
    ],
)
def test_why_a_job_waits(reason, never, said):
    job = slurm_queue.Job('12_3', 'PENDING', reason)
    assert (job.never, job.waits) == (never, said)
    assert not slurm_queue.Job('12_3', 'RUNNING', reason).never


def test_a_name_is_found_in_the_script_whatever_it_is(tmp_path):
    names = ["it's a=1,b", '; touch x', 'c "d"']
    (path,) = slurm_queue.next_submissions(tmp_path / 'none', 1)
    assert path == tmp_path / 'none' / '1' / 'job.sh'
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(map(slurm_queue.naming, names)))
    done = subprocess.run(['bash', path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
    assert slurm_queue.names(path) == names
    more = slurm_queue.next_submissions(tmp_path / 'none', 2)
    assert [path.parent.name for path in more] == ['2', '3']

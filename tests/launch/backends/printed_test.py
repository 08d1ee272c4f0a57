"""What every backend prints, run by a shell, with values that would escape.

The tools are one small program that writes down its arguments and, where the
tool would run a script on another machine, has bash run it.
"""

import json
import pathlib
import subprocess
import sys

import pytest
import yaml

from launch.backends import local, slurm, tpu
from launch.trials import Trial
from moe.config import ConfigError
from tests.launch.backends.tpu_tools import options
from tests.launch.shell_test import HOSTILE

TOOLS = (
    *('cp', 'curl', 'gcloud', 'gcsfuse', 'gpg', 'lsb_release', 'mountpoint'),
    *(
        'pkill',
        'python',
        'python3',
        'rm',
        'sbatch',
        'sky',
        'srun',
        'sudo',
        'xpk',
    ),
)
_TOOL = """#!{python} -IS
import json, os, pathlib, subprocess, sys
name, *argv = pathlib.Path(sys.argv[0]).name, *sys.argv[1:]
with open({calls!r}, 'a') as calls:
    calls.write(json.dumps([name, *argv]) + '\\n')
scripts = [a.removeprefix('--command=') for a in argv if '--command=' in a[:10]]
if name == 'sbatch':
    scripts = [sys.stdin.buffer.read()]
for script in scripts:
    subprocess.run(
        ['bash', '-c', script], stdin=subprocess.DEVNULL, check=True
    )
"""


@pytest.fixture
def play(tmp_path):
    """Runs lines in an empty folder; returns the calls of each tool."""
    calls = tmp_path / 'calls.jsonl'
    for folder in ('bin', 'home/venv/bin', 'home/.local/bin', 'home/moe'):
        (tmp_path / folder).mkdir(parents=True)
    places = [f'bin/{tool}' for tool in TOOLS]
    for place in [*places, 'home/venv/bin/python', 'home/.local/bin/uv']:
        path = tmp_path / place
        path.write_text(_TOOL.format(python=sys.executable, calls=str(calls)))
        path.chmod(0o755)
    work = tmp_path / 'work'
    work.mkdir()

    def run(lines):
        script = ''.join(f'{line}\n' for line in lines)
        subprocess.run(
            ['bash', '-e'],
            input=script.encode('utf-8', 'surrogateescape'),
            cwd=work,
            env={
                'HOME': str(tmp_path / 'home'),
                'PATH': f'{tmp_path / "bin"}:/usr/bin:/bin',
                'SLURM_ARRAY_TASK_ID': '0',
                'USER': 'user',
            },
            check=True,
        )
        assert sorted(p.name for p in work.rglob('effect')) == []
        found = [json.loads(line) for line in calls.read_text().splitlines()]
        return {
            name: [argv for tool, *argv in found if tool == name]
            for name, *_ in found
        }

    run.work, run.tool = work, str(tmp_path / 'bin' / 'python')
    return run


def trial(root):
    """A trial whose command line has every hostile value."""
    given = [f'--config.x{i}={text}' for i, text in enumerate(HOSTILE)]
    line = ('train.py', '--config=c.py', *given, f'--workdir={root}/a=1')
    return Trial('a=1', {}, {'steps': 3}, pathlib.Path(root) / 'a=1', line)


def values(argv):
    """The hostile values as they arrived."""
    texts = [a.partition('=')[2] for a in argv if a.startswith('--config.x')]
    return tuple(texts)


def test_local(play, monkeypatch):
    monkeypatch.setattr(sys, 'executable', play.tool)
    one = trial('runs')
    how = {'parallel': 1, 'retries': 0}
    (line,) = local.dry_run([one], local.Options(), **how)
    assert len(line.splitlines()) == 1
    assert play([line]) == {'python': [list(one.command)]}


def test_slurm(play, monkeypatch):
    monkeypatch.setattr(sys, 'executable', 'python')
    monkeypatch.chdir(play.work)
    one, given = trial('runs'), slurm.Options()
    lines = slurm.dry_run([one], given, parallel=1, retries=0)
    found = play(lines)
    ((script,),) = found['sbatch']
    monkeypatch.setenv('SLURM_ARRAY_TASK_ID', '0')
    (words,) = play(pathlib.Path(script).read_text().splitlines())['srun']
    assert words[:4] == [
        *('--kill-on-bad-exit=1', 'python', '-m'),
        'launch.backends.slurm_process',
    ]
    mark, folder, dashes, *command = words[4:]
    assert mark.endswith('/.slurm/1/again_0')
    assert (folder, dashes) == (str(one.folder), '--')
    assert command == list(one.command)


@pytest.mark.parametrize('engine', ['gcloud', 'xpk', 'skypilot'])
def test_tpu(play, engine):
    how = {'parallel': 1, 'retries': 0}
    found = play(tpu.dry_run([trial('runs')], options(engine), **how))
    if engine == 'skypilot':
        (path,) = play.work.rglob('skypilot.yaml')
        assert found['sky'][0][-1] == str(path.relative_to(play.work))
        found = play([yaml.safe_load(path.read_text())['run']])
    (argv,) = [a for a in found['python'] if a[0] == 'train.py']
    assert values(argv) == HOSTILE
    assert argv[-2:] == ['--workdir=/gcs/routers/a=1', '--distributed']


def test_what_a_host_downloads_is_signed_or_has_a_checksum(play):
    # Where there is no gcsfuse yet.
    (pathlib.Path(play.tool).parent / 'gcsfuse').unlink()
    how = {'parallel': 1, 'retries': 0}
    found = play(tpu.dry_run([trial('runs')], options('gcloud'), **how))
    assert [a[-1].rpartition('.')[2] for a in found['curl']] == ['gpg']
    # Only the key with this fingerprint gets into the keyring.
    exported = next(a[-1] for a in found['gpg'] if '--export' in a)
    assert exported == '35BAA0B33E9EB396F59CA838C0BA5CE6DC6315A3'
    wait = ('-o', 'DPkg::Lock::Timeout=600')  # of a boot's own updates
    installed = ['apt-get', *wait, 'install', '--yes', 'gcsfuse=3.8.0']
    assert installed in found['sudo']
    (pip,) = found['python3']
    assert '--require-hashes' in pip
    requirements = pip[-1].removeprefix('--requirement=')
    text = (pathlib.Path(__file__).parents[3] / requirements).read_text()
    assert text.count('==') == text.count('--hash=sha256:') == 1


@pytest.mark.parametrize('name', ['a\ntouch effect #', 'a\u2028b', 'a\x1b'])
def test_directives_of_slurm_hold_no_line_breaks(name):
    how = {'parallel': 1, 'retries': 0}
    with pytest.raises(ConfigError, match=r'workdir = .*: must be printable'):
        list(slurm.dry_run([trial(name)], slurm.Options(), **how))
    for field in ('partition', 'account', 'qos', 'memory', 'sbatch', 'srun'):
        with pytest.raises(ConfigError, match=f'{field} = '):
            slurm.Options(**{field: f'--x={name}'})

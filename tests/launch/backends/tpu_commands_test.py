"""The commands for pods, as text."""

import json
import os
import re
import subprocess
import sys

import pytest

from launch.backends import tpu
from launch.backends.tpu_compute import Compute
from launch.backends.tpu_gcloud import Gcloud
from launch.backends.tpu_hosts import INSTALL
from moe.config import ConfigError
from tests.launch.backends.tpu_tools import (
    GOLDENS,
    SHOWN,
    argvs,
    expected,
    options,
    shown,
    trials,
)


@pytest.mark.parametrize('engine', SHOWN)
def test_dry_run(engine):
    # Read the difference and, if it is meant, change the file by hand.
    golden = (GOLDENS / f'tpu_{engine}.txt').read_text()
    assert '\n'.join(shown(engine)) + '\n' == golden


def test_hostile_values_reach_the_program_through_two_shells(tmp_path):
    # The outer shell is the user's, the inner one the host's: there Python is
    # a program that repeats its arguments.
    home = tmp_path / 'home'
    python = home / 'venv' / 'bin' / 'python'
    python.parent.mkdir(parents=True)
    python.write_text(
        f'#!{sys.executable} -IS\nimport json, sys\n'
        "print(json.dumps(['python', *sys.argv[1:]]))\n"
    )
    python.chmod(0o755)
    (home / 'moe').mkdir()
    script = next(
        argv[-1].removeprefix('--command=')
        for argv in argvs('gcloud')
        if '--distributed' in argv[-1]
    ).replace('mountpoint -q /gcs', 'true')
    done = subprocess.run(
        ['bash', '-c', script],
        env={'HOME': str(home), 'PATH': os.environ['PATH']},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == expected('a=1', 'python')


def test_a_script_runs_on_all_hosts_at_once(tmp_path):
    # The user's shell lists the group, and each host's shell gets its number
    # and the first host's name; one host fails.
    log = tmp_path / 'log'
    gcloud = tmp_path / 'gcloud'
    gcloud.write_text(
        '#!/bin/bash\n'
        'case "$*" in *list-instances*) printf "b\\na\\n"; exit;; esac\n'
        'for a; do case "$a" in --command=*) script=${a#--command=};; '
        '-*|compute|ssh) ;; *) host=$a;; esac; done\n'
        f'bash -c "$script" | sed "s/^/$host /" >> {log}\n'
        '[ $host = a ]\n'
    )
    gcloud.chmod(0o755)
    engine = Compute(options('compute'))
    command = engine.on_all_hosts('routers-0', 'echo "$NUMBER $ZERO" \'x\'')
    done = subprocess.run(
        command.argv,
        input=command.stdin,
        env={'PATH': f'{tmp_path}:{os.environ["PATH"]}'},
        text=True,
    )
    assert done.returncode == 1
    assert sorted(log.read_text().splitlines()) == ['a 0 a x', 'b 1 a x']


def test_a_group_is_active_when_all_its_hosts_run():
    engine = Compute(options('compute'))  # two hosts
    assert engine.read_state('RUNNING\nRUNNING') == 'ACTIVE'
    assert engine.read_state('RUNNING\nSTAGING') == '1 of 2 hosts run'
    assert engine.read_state('') == '0 of 2 hosts run'
    assert engine.read_state('RUNNING\nTERMINATED') == 'SUSPENDED'


@pytest.mark.parametrize(
    ('engine', 'given', 'type_'),
    [
        # 4 * 4 * 8 chips of two cores each; of v6e and v5e chips are counted.
        ('gcloud', 'v5p:4x4x8', 'v5p-256'),
        ('gcloud', 'v4:2x2x2', 'v4-16'),
        ('gcloud', 'v6e:4x4', 'v6e-16'),
        ('skypilot', 'v5e:4x4', 'v5litepod-16'),
        ('xpk', 'tpu7x:4x4x4', 'tpu7x-4x4x4'),
        ('gcloud', 'v5p-256', 'v5p-256'),
    ],
)
def test_types_of_slices(engine, given, type_):
    found = options(engine, accelerator=given)
    assert found.type == type_
    assert type_ in ' '.join(map(str, shown_of(engine, given)))


def shown_of(engine, accelerator):
    given = {} if engine != 'skypilot' else {'capacity': 'spot'}
    made = options(engine, accelerator=accelerator, **given)
    names = ['a=1']
    return tpu.dry_run(trials(*names), made, parallel=1, retries=1)


@pytest.mark.parametrize(
    ('engine', 'given', 'said'),
    [
        ('gcloud', 'v5e-16', 'must be v5litepod-16, as its types are called'),
        ('gcloud', 'tpu7x:4x4x4', 'take compute or gcluster'),
        ('gcloud', 'tpu7x-128', 'must be tpu7x:TOPOLOGY, such as tpu7x:4x4x4'),
        ('compute', 'v5e:4x4', 'one of v5p, v6e, tpu7x with compute'),
        ('compute', 'v5p-256', 'CHIP:TOPOLOGY with compute'),
        ('gcloud', 'v5p:4x4', 'must be 3 sizes after v5p'),
        ('gcloud', 'h100:8x8', 'must be a TPU'),
        ('gcloud', 'v9-8', 'one of v4, v5litepod, v5p, v6e, or with its'),
    ],
)
def test_accelerators_that_cannot_be_had(engine, given, said):
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        options(engine, accelerator=given)
    assert str(caught.value).startswith(f'tpu.accelerator = {given!r}: must be')


def test_a_host_is_made_ready_by_a_script_that_a_shell_reads():
    (command,) = Gcloud(options('gcloud')).equip('routers-0')
    script = command.argv[-1].removeprefix('--command=')
    subprocess.run(['bash', '-n', '-c', script], check=True)
    assert script.endswith(' && '.join(INSTALL))
    assert 'mountpoint -q /gcs || ' in script


def test_what_looks_for_an_old_run_does_not_find_itself():
    (stop, _) = Gcloud(options('gcloud')).train('routers-0', *trials('a=1'))
    script = stop.argv[-1].removeprefix('--command=')
    (pattern,) = re.findall(r"--full '(.*)'", script)
    assert not re.search(pattern, script)
    assert re.search(pattern, 'python train.py --config=configs/lm.py')


@pytest.mark.parametrize(
    ('path', 'sent'),
    [
        ('train.py', True),
        ('configs/lm.py', True),
        ('moe/training/checkpoint.py', True),
        ('tests/runs.py', True),
        ('.git/config', False),
        ('.venv/bin/python', False),
        ('moe/__pycache__/config.pyc', False),
        ('runs/a/metrics.jsonl', False),
        ('sweep/a=1/checkpoints/10/state', False),
    ],
)
def test_what_is_sent_to_the_hosts(path, sent):
    # gcloud leaves out what the pattern matches from the first character on.
    (command,) = Gcloud(options('gcloud')).prepare()
    flag = next(a for a in command.argv if a.startswith('--exclude='))
    pattern = flag.removeprefix('--exclude=')
    assert ',' not in pattern  # where gcloud would part it
    assert (re.match(pattern, path) is None) == sent


def test_job_names_differ_and_are_short():
    engine = Gcloud(options('gcloud', name='a' * 20))
    names = ['Router=top_k', 'router=top_k', 'router=top_k,seed=' + '9' * 100]
    found = [engine.job_name(trial) for trial in trials(*names)]
    assert len(set(found)) == 3
    for name in found:
        assert re.fullmatch(r'[a-z]([a-z0-9-]{0,38}[a-z0-9])?', name)

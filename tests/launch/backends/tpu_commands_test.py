"""The commands for pods, as text and as the tools themselves read them."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml

from launch.backends import tpu
from launch.backends.tpu_compute import Compute
from launch.backends.tpu_gcloud import Gcloud
from launch.backends.tpu_hosts import INSTALL
from moe.config import ConfigError
from tests.launch.backends.tpu_tools import HOSTILE, options, trials

ROOT = pathlib.Path(__file__).parents[3]
GOLDENS = ROOT / 'tests' / 'goldens'
XPK = pathlib.Path(sys.prefix) / 'xpk' / 'bin' / 'xpk'
TOP_K = 'router=top_k,seed=0'
CREATE = ['xpk', 'workload', 'create']
SHOWN = {
    'gcloud': (['a=1', 'b=2', 'a=3'], {'slices': 2, 'capacity': 'spot'}),
    'compute': (
        ['a=1', 'b=2'],
        {
            'capacity': 'spot',
            'internal': True,
            'labels': 'team=moe,cost=7',
            'network': 'pods',
            'subnetwork': 'pods-a',
            'service_account': 'runs@my-project.iam.gserviceaccount.com',
            'environment': "LIBTPU_INIT_ARGS='--x=1 --y=2'",
        },
    ),
    'xpk': ([TOP_K], {'slices': 2}),
    'gcluster': (
        [TOP_K],
        {
            'slices': 2,
            'reservation': 'mine',
            'environment': "LIBTPU_INIT_ARGS='--x=1 --y=2'",
            'flags': '--priority=low --queue=multislice-queue',
        },
    ),
    'skypilot': ([TOP_K], {'capacity': 'spot'}),
}


def shown(engine, **changes):
    """The dry run of the golden's sweep."""
    names, given = SHOWN[engine]
    how = {'parallel': 2, 'retries': 1}
    given = options(engine, **{**given, **changes})
    return list(tpu.dry_run(trials(*names), given, **how))


def argvs(engine, **changes):
    """The commands of the dry run, taken apart as a shell would."""
    lines = (line.partition(" <<'END'")[0] for line in shown(engine, **changes))
    found = (shlex.split(line, comments=True) for line in lines)
    return [argv for argv in found if argv]


@pytest.mark.parametrize('engine', SHOWN)
def test_dry_run(engine):
    # Read the difference and, if it is meant, change the file by hand.
    golden = (GOLDENS / f'tpu_{engine}.txt').read_text()
    assert '\n'.join(shown(engine)) + '\n' == golden


def documented(tool):
    """Command lines of a tool in the page about pods."""
    text = (
        (ROOT / 'docs' / 'how-to' / 'tpu-pods.md')
        .read_text()
        .replace('\\\n', '')
    )
    blocks = re.findall(
        r'^```[\w ]*\n(.*?)^```', text, re.MULTILINE | re.DOTALL
    )
    lines = '\n'.join(blocks).splitlines()
    return [shlex.split(x) for x in lines if x.startswith(f'{tool} ')]


def expected(name, python):
    """What Python is started with on every host."""
    return [
        *(python, 'train.py', '--config=configs/lm.py:quickstart'),
        *(f'--config.{field}={value}' for field, value in HOSTILE.items()),
        f'--workdir=/gcs/routers/{name}',
        '--distributed',
    ]


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


def test_a_script_runson_all_hosts_at_once(tmp_path):
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


ORGANISATION = {
    'network': 'pods',
    'subnetwork': 'pods-a',
    'service_account': 'runs@my-project.iam.gserviceaccount.com',
    'labels': 'team=moe,cost=7',
    'internal': True,
    'reservation': 'mine',
    'flags': '--metadata=a=b',
}
RESERVED = {'capacity': 'reserved', 'reservation': 'mine', 'internal': False}


def known_to_528(argv):
    """A command line without the flag that gcloud 528 does not have yet."""
    return [a for a in argv if not a.startswith('--target-size-policy-mode')]


def inside_scripts():
    """The commands of gcloud in the scripts that run on all hosts."""
    text = next(
        line.partition("<<'END'\n")[2]
        for line in shown('compute')
        if 'pkill' in line
    )
    (line,) = (x for x in text.splitlines() if 'compute ssh' in x)
    ssh = shlex.split(line.removesuffix('< /dev/null &'))
    hosts = text.partition('$(')[2].partition(' < /dev/null')[0]
    return [ssh, shlex.split(hosts)]


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which('gcloud') is None, reason='needs gcloud on the PATH'
)
def test_gcloud_knows_every_flag(tmp_path):
    # Nobody is logged in, and there is nobody to ask: a command line that can
    # be read ends with that (1), another one where it is wrong (2).
    environment = {
        **{n: v for n, v in os.environ.items() if not n.startswith('CLOUD')},
        'CLOUDSDK_CONFIG': str(tmp_path / 'config'),
        'CLOUDSDK_CORE_CHECK_GCE_METADATA': 'false',
        'CLOUDSDK_CORE_DISABLE_PROMPTS': '1',
    }
    environment.pop('GOOGLE_APPLICATION_CREDENTIALS', None)
    given = [
        *argvs('gcloud'),
        *argvs('gcloud', slices=1, capacity='reserved'),
        *argvs('gcloud', capacity='on_demand', **ORGANISATION),
        *map(known_to_528, argvs('compute')),
        *map(known_to_528, argvs('compute', **RESERVED)),
        *inside_scripts(),
        *documented('gcloud'),
    ]
    kinds = [
        (*argv[:5], *sorted({a.partition('=')[0] for a in argv if '--' in a}))
        for argv in given
    ]
    unlike = dict(zip(kinds, given, strict=True))
    right = [
        argv
        for argv in unlike.values()
        if argv[0] == 'gcloud' and argv[1] != 'auth'
    ]
    commands = [*right, [*right[0], '--no-such-flag']]
    running = [
        subprocess.Popen(
            argv,
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for argv in commands
    ]
    said = [process.communicate()[0] for process in running]
    codes = [process.returncode for process in running]
    assert len(right) > 10
    assert codes == [1] * len(right) + [2], said
    unread = [text for text in said[:-1] if 'active account' not in text]
    assert unread == []


needs_xpk = pytest.mark.skipif(
    not XPK.exists(), reason='needs xpk beside the environment: see Makefile'
)


@needs_xpk
def test_xpk_makes_a_job_of_it(tmp_path):
    path = tmp_path / 'job.yaml'
    create = next(a for a in argvs('xpk') if a[:3] == CREATE)
    dry = ('--dry-run', '--skip-validation', f'--output-manifest-file={path}')
    done = subprocess.run(
        [*create, *dry],
        cwd=tmp_path,
        env={
            **os.environ,
            'HOME': str(tmp_path),
            'PATH': f'{XPK.parent}:{os.environ["PATH"]}',
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    job = yaml.safe_load(path.read_text())
    assert job['kind'] == 'JobSet'
    assert job['metadata']['name'] == 'routers-router-top-k-0fbab5'
    assert job['spec']['failurePolicy']['maxRestarts'] == 10
    (slices,) = job['spec']['replicatedJobs']
    assert slices['replicas'] == 2
    # v5p-256 counts cores: 128 chips, of which a host has 4.
    assert slices['template']['spec']['parallelism'] == 256 // 2 // 4
    pod = slices['template']['spec']['template']['spec']
    assert pod['nodeSelector'] == {
        'cloud.google.com/gke-tpu-accelerator': 'tpu-v5p-slice',
        'cloud.google.com/gke-tpu-topology': '4x4x8',
    }
    (container,) = pod['containers']
    assert container['image'] == 'moe:tpu'
    script = container['command'][-1]
    (command,) = re.findall(r'^\((exec .*)\) & PID=', script, re.MULTILINE)
    assert shlex.split(command) == ['exec', *expected(TOP_K, 'python')]


# Command lines in, a word for each out; the parser itself ends the program.
_PARSE = """
import argparse, json, sys
from xpk.parser.core import set_parser
parser = argparse.ArgumentParser()
set_parser(parser)
for argv in json.load(sys.stdin):
    try:
        parser.parse_args(argv[1:])
        print('read')
    except SystemExit:
        print('refused')
"""


@needs_xpk
def test_xpk_knows_every_flag():
    given = [argv for argv in argvs('xpk') if argv[0] == 'xpk']
    given += documented('xpk')
    assert len(given) == 3 + 4
    wrong = [*given[0], '--no-such-flag']
    done = subprocess.run(
        [XPK.parent / 'python', '-c', _PARSE],
        input=json.dumps([*given, wrong]),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ['read'] * 7 + ['refused'], done.stderr


def task():
    """The task that SkyPilot gets, as text."""
    (line,) = (line for line in shown('skypilot') if line.startswith('tee '))
    return line.partition("<<'END'\n")[2].removesuffix('END')


def test_skypilot_runs_the_same_command():
    found = yaml.safe_load(task())
    run = found['run'].removeprefix('exec ')
    assert shlex.split(run) == expected(TOP_K, '~/venv/bin/python')
    assert found['file_mounts']['/gcs'] == {
        'source': 'gs://my-bucket',
        'mode': 'MOUNT',
    }


@pytest.mark.skipif(
    shutil.which('sky') is None,
    reason='needs SkyPilot on the PATH, from an environment of its own',
)
def test_skypilot_reads_the_task(tmp_path):
    (tmp_path / 'task.yaml').write_text(task())
    python = pathlib.Path(shutil.which('sky')).parent / 'python'
    done = subprocess.run(
        [
            *(str(python), '-c'),
            "import sky; task = sky.Task.from_yaml('task.yaml'); "
            'print(task.name, *((r, r.zone) for r in task.resources))',
        ],
        cwd=tmp_path,
        env={**os.environ, 'HOME': str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('routers-router-top-k-0fbab5 (GCP([Spot], ')
    assert "'tpu-v5p-256': 1" in done.stdout
    assert done.stdout.endswith(", 'us-east5-a')\n")

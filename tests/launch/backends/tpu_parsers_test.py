"""The commands for pods as the tools themselves read them."""

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

from tests.launch.backends.tpu_tools import (
    GOLDENS,
    ROOT,
    TOP_K,
    argvs,
    expected,
    shown,
)

XPK = pathlib.Path(sys.prefix) / 'xpk' / 'bin' / 'xpk'
CREATE = ['xpk', 'workload', 'create']


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


def test_gcluster_knows_every_flag():
    # Its program is in Go; the names are those of its source.
    text = (GOLDENS / 'gcluster_flags.txt').read_text()
    known = {f'--{name}' for name in text.splitlines()[1:]}
    given = [argv for argv in argvs('gcluster') if argv[0] == 'gcluster']
    given += documented('gcluster')
    assert [argv[:3] for argv in given] == [
        ['gcluster', 'job', verb] for verb in ('submit', 'cancel', 'list')
    ]
    used = {
        a.partition('=')[0] for argv in given for a in argv if a[:2] == '--'
    }
    assert used <= known
    # What a submission needs, and what takes no value.
    assert {'--command', '--name', '--compute-type', '--image'} <= used


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

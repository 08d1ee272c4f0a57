"""Trials of a sweep, and the engines' tools played by one small script."""

import dataclasses
import json
import pathlib
import shlex

from launch.backends import tpu
from launch.trials import Trial
from moe.config import parse

HOSTILE = {
    'model.moe.router': '{"name": "top_k", "k": 2}',
    'note': 'it\'s $HOME; `ls` "x" \\ *',
}
GIVEN = {
    'gcloud': {'project': 'my-project'},
    'compute': {'project': 'my-project', 'accelerator': 'tpu7x:2x2x2'},
    'xpk': {'project': 'my-project', 'cluster': 'pods', 'image': 'moe:tpu'},
    'gcluster': {
        'project': 'my-project',
        'cluster': 'pods',
        'image': 'moe:tpu',
        'accelerator': 'tpu7x:4x4x8',
    },
    'skypilot': {},
}

# Appends its arguments to calls.jsonl and does what is next in outcomes.json
# for this kind of call; at the end of a list, and without one, all is well.
_TOOL = """#!/usr/bin/python3 -IS
import fcntl, json, pathlib, re, subprocess, sys
here = pathlib.Path({folder!r})
lock = (here / 'lock').open('a')
fcntl.flock(lock, fcntl.LOCK_EX)  # several run at once
argv = [pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]
text = ' '.join(argv)
if pathlib.Path(argv[-1]).is_file():
    text += pathlib.Path(argv[-1]).read_text()
kinds = ('rsync', 'create', 'describe', 'delete', 'cancel', 'launch', 'list')
kind = next((k for k in kinds if k in argv), 'ssh')
if '--format=value(name)' in argv:  # of the hosts of a group
    print('b\\na')
    sys.exit()
if 'list-instances' in argv:
    kind = 'describe'
trial = re.search(r'--workdir=/gcs/[^/]+/([\\w=,.-]+)', text)
if kind == 'ssh':
    kind = 'train' if trial else 'pkill' if 'pkill' in text else 'equip'
with (here / 'calls.jsonl').open('a') as calls:
    calls.write(json.dumps([kind, argv]) + '\\n')
outcomes = json.loads((here / 'outcomes.json').read_text())
outcome = (outcomes.get(kind) or ['ok'])[0]
if outcomes.get(kind):
    outcomes[kind] = outcomes[kind][1:]
    (here / 'outcomes.json').write_text(json.dumps(outcomes))
lock.close()
if kind == 'describe':
    ready = 'RUNNING RUNNING' if 'list-instances' in argv else 'ACTIVE'
    print(ready if outcome == 'ok' else outcome)
elif outcome == 'hang':
    # As gcloud does, which waits for another program.
    child = subprocess.Popen(['sleep', '100'])
    (here / 'hangs.part').write_text(str(child.pid))
    (here / 'hangs.part').rename(here / 'hangs')
    child.wait()
elif outcome == 'ok' and trial:
    (here / trial.group(1)).touch()
fetched = kind == 'rsync' and outcome == 'ok'
if fetched and (here / argv[-2].rpartition('/')[2]).is_file():
    (pathlib.Path(argv[-1]) / 'done').touch()
sys.exit(outcome == 'fail')
"""


class Fake(Trial):
    """A trial that is done when the tools have said so."""

    def done(self):
        return (self.folder / 'done').exists()


def trials(*names, root=pathlib.Path('runs/routers')):
    """Trials with values that a shell would spoil."""
    overrides = [f'--config.{name}={value}' for name, value in HOSTILE.items()]
    return [
        Fake(
            name,
            HOSTILE,
            {'steps': 3},
            root / name,
            (
                *('train.py', '--config=configs/lm.py:quickstart', *overrides),
                f'--workdir={root / name}',
            ),
        )
        for name in names
    ]


def plain(engine, **changes):
    """The flags of a sweep on two slices, or one."""
    return {
        **{f.name: f.default for f in dataclasses.fields(tpu.Options)},
        'engine': engine,
        'name': 'routers',
        'zone': 'us-east5-a',
        'accelerator': 'v5p-256',
        'bucket': 'my-bucket',
        **GIVEN[engine],
        **changes,
    }


def options(engine, **changes):
    """The same, checked."""
    return parse(tpu.Options, plain(engine, **changes), 'tpu')


class Tools:
    """The fake tools in a folder.

    Args:
      folder: empty.
      outcomes: kind of call to what comes of it: `ok`, `fail`, `hang`, or the
        state that is described.
    """

    def __init__(self, folder, **outcomes):
        self._folder = folder
        for name in ('gcloud', 'xpk', 'gcluster', 'sky'):
            tool = folder / 'bin' / name
            tool.parent.mkdir(exist_ok=True)
            tool.write_text(_TOOL.format(folder=str(folder)))
            tool.chmod(0o755)
        (folder / 'outcomes.json').write_text(json.dumps(outcomes))
        self.path = str(folder / 'bin')

    @property
    def calls(self):
        """Kind and arguments of every call."""
        return calls(self._folder)

    @property
    def kinds(self):
        """Kinds of the calls, in order."""
        return [kind for kind, _ in self.calls]


def calls(folder):
    """Kind and arguments of every call of the tools in a folder."""
    lines = (folder / 'calls.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


ROOT = pathlib.Path(__file__).parents[3]
GOLDENS = ROOT / 'tests' / 'goldens'
TOP_K = 'router=top_k,seed=0'
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


def expected(name, python):
    """What Python is started with on every host."""
    return [
        *(python, 'train.py', '--config=configs/lm.py:quickstart'),
        *(f'--config.{field}={value}' for field, value in HOSTILE.items()),
        f'--workdir=/gcs/routers/{name}',
        '--distributed',
    ]

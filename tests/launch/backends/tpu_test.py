"""Sweeps on pods: what is run, with tools that only record it."""

import contextlib
import os
import shlex
import signal
import threading
import time

import psutil
import pytest

from launch.backends import tpu
from moe.config import ConfigError, parse
from tests.launch.backends.tpu_tools import Tools, calls, options, plain, trials

pytestmark = pytest.mark.slow

# What a pod costs of calls: the code, then one claimed, seen and equipped.
SENT = ['rsync']
UP = ['create', 'describe', 'equip']
TRIAL = ['pkill', 'train', 'rsync']


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Runs trials with tools whose calls come out as they are told to."""
    monkeypatch.setattr(tpu, '_POLL', 0.01)

    def start(engine, names=('a=1',), parallel=1, retries=1, keep=(), **come):
        tools = Tools(tmp_path, **come)
        monkeypatch.setenv('PATH', tools.path, prepend=os.pathsep)
        found = trials(*names, root=tmp_path / 'runs')
        given = options(engine, **dict(keep))
        how = {'parallel': parallel, 'retries': retries}
        expected = list(tpu.dry_run(found, given, **how))
        try:
            tpu.run(found, given, **how)
        finally:
            tools.done = [trial.done() for trial in found]
            tools.expected = expected
        return tools

    return start


@pytest.mark.parametrize('engine', ['gcloud', 'xpk', 'gcluster', 'skypilot'])
def test_it_runs_what_the_dry_run_prints(play, capfd, engine):
    tools = play(engine, ('a=1', 'b=2', 'c=3'))
    assert tools.done == [True, True, True]
    printed = capfd.readouterr().out.split('\n$ ')
    shown = [line for line in tools.expected if not line.startswith('#')]
    # Between two commands stands what the first one or we have to say.
    said = zip(printed, shown, strict=True)
    assert all(text.removeprefix('$ ').startswith(s) for text, s in said)
    # What was run is what a shell would make of the lines.
    lines = [shlex.split(line, comments=True) for line in shown]
    called = [argv for _, argv in tools.calls]
    assert called == [x for x in lines if x[0] not in ('mkdir', 'tee')]


def test_a_pod_runs_its_share_of_the_trials_and_is_deleted(play):
    tools = play('gcloud', ('a=1', 'b=2', 'c=3'), parallel=2)
    assert tools.done == [True, True, True]
    pods = {'routers-0': ['a=1', 'c=3'], 'routers-1': ['b=2']}
    for pod, names in pods.items():
        mine = [(kind, argv) for kind, argv in tools.calls if pod in argv]
        kinds = [kind for kind, _ in mine]
        assert kinds == [*UP, *['pkill', 'train'] * len(names), 'delete']
        commands = [argv[-1] for kind, argv in mine if kind == 'train']
        for name, command in zip(names, commands, strict=True):
            assert f'--workdir=/gcs/routers/{name} --distributed' in command
    assert tools.kinds.count('rsync') == 1 + 3


def test_a_group_of_hosts_is_made_again_when_one_has_stopped(play):
    # The policy, the template and the group; each script is for two hosts.
    tools = play(
        'compute',
        retries=0,
        describe=['RUNNING STAGING', 'ok', 'RUNNING TERMINATED'],
        train=['fail'] * 2,
    )
    assert tools.done == [True]
    made, deleted = ['create'] * 3, ['delete'] * 3
    ready, trial = ['equip'] * 2, [*['pkill'] * 2, *['train'] * 2, 'rsync']
    first = [*made, *['describe'] * 2, *ready, *trial, 'describe', *deleted]
    second = [*made, 'describe', *ready, *trial, *deleted]
    assert tools.kinds == [*SENT, *first, *second]
    found = [argv[-1] for kind, argv in tools.calls if kind == 'train']
    places = [c.partition(';')[0].removeprefix('--command=') for c in found]
    assert sorted(places[:2]) == ['NUMBER=0 ZERO=a', 'NUMBER=1 ZERO=a']
    assert '--coordinator="$ZERO:8476" --processes=2' in found[0]


def test_it_waits_for_the_pod(play, capfd):
    states = ['WAITING_FOR_RESOURCES', 'WAITING_FOR_RESOURCES', 'PROVISIONING']
    tools = play('gcloud', describe=states)
    waiting = ['describe'] * 3
    kinds = ['rsync', 'create', *waiting, *UP[1:], *TRIAL, 'delete']
    assert tools.kinds == kinds
    said = [
        line.removeprefix('routers-0: ')
        for line in capfd.readouterr().out.splitlines()
        if line.startswith('routers-0: ')
    ]
    assert said == [states[0], states[2], 'ACTIVE', 'a=1: done']


def test_a_pod_that_is_there_is_used_and_kept(play):
    tools = play('gcloud', create=['fail'], keep={'keep': True})
    assert tools.kinds == [*SENT, *UP, *TRIAL]
    assert tools.done == [True]


def test_a_failed_trial_is_started_again_on_its_pod(play):
    # A failure, a look whether the pod is there, and the whole again: it costs
    # nothing where the pod is equipped already.
    tools = play('gcloud', train=['fail'])
    again = ['describe', *UP, *TRIAL]
    assert tools.kinds == [*SENT, *UP, *TRIAL, *again, 'delete']
    assert tools.done == [True]


@pytest.mark.parametrize('retries', [0, 2])
def test_a_trial_that_fails_for_good_leaves_place_to_the_next(play, retries):
    times = retries + 1
    tools = play(
        'gcloud', ('a=1', 'b=2'), retries=retries, train=['fail'] * times
    )
    assert tools.done == [False, True]
    assert tools.kinds.count('train') == times + 1
    assert tools.kinds[-1] == 'delete'
    assert tools.kinds.count('delete') == 1


@pytest.mark.parametrize('state', ['SUSPENDED', 'SUSPENDING', 'FAILED'])
def test_a_lost_pod_is_made_again_and_the_trial_goes_on(play, state):
    # Without retries: the trial is not at fault.
    tools = play(
        'gcloud', retries=0, describe=['ACTIVE', state], train=['fail']
    )
    assert tools.done == [True]
    again = ['describe', 'delete', *UP, *TRIAL, 'delete']
    assert tools.kinds == [*SENT, *UP, *TRIAL, *again]
    first, second = (argv for kind, argv in tools.calls if kind == 'train')
    assert first == second


def test_losses_are_counted(play):
    # Two losses are one too many, and a third attempt would be a retry.
    tools = play(
        'gcloud',
        retries=0,
        keep={'preemptions': 1},
        train=['fail'] * 5,
        describe=['ACTIVE', 'SUSPENDED'] * 5,
    )
    assert tools.done == [False]
    assert tools.kinds.count('create') == tools.kinds.count('delete') == 2


def test_a_request_that_is_refused_is_no_loss(play):
    states = {'create': ['fail'] * 2, 'describe': ['fail'] * 20}
    tools = play('gcloud', retries=1, **states)
    # Twice asked for, three looks at each, and one more to see what failed.
    refused = ['create', *['describe'] * 4]
    assert tools.kinds == [*SENT, *refused, *refused, 'delete']
    assert tools.done == [False]


def test_code_that_cannot_be_sent_starts_nothing(play):
    tools = play('gcloud', rsync=['fail'])
    assert tools.kinds == SENT


@pytest.mark.parametrize(
    ('engine', 'fails', 'first', 'second', 'end'),
    [
        ('xpk', 'create', [], ['create', 'list'], 'delete'),
        ('xpk', 'rsync', ['list'], ['create', 'list'], 'delete'),
        ('skypilot', 'launch', [], ['launch'], 'cancel'),
    ],
)
def test_a_failed_job_is_deleted_and_submitted_again(
    play, engine, fails, first, second, end
):
    tools = play(engine, **{fails: ['fail']})
    attempts = [second[0], *first, 'rsync', end, *second, 'rsync', end]
    assert tools.kinds == attempts
    assert tools.done == [True]


def test_a_deletion_that_fails_is_tried_again(play):
    # A pod that is being made cannot be deleted.
    tools = play('gcloud', delete=['fail', 'fail'])
    assert tools.kinds == [*SENT, *UP, *TRIAL, *['delete'] * 3]


def test_what_is_not_deleted_is_said_to_be_there(play, capfd):
    play('gcloud', delete=['fail'] * 100)
    last = capfd.readouterr().out.splitlines()[-1]
    there = 'may still exist, and cost: gcloud compute tpus queued-resources'
    assert there in last


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_and_deletes_the_pods(play, tmp_path, number):
    def interrupt():
        while not (tmp_path / 'hangs').exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        play('gcloud', ('a=1', 'b=2'), parallel=1, train=['hang'])
    thread.join()
    kinds = [kind for kind, _ in calls(tmp_path)]
    assert kinds == [*SENT, *UP, 'pkill', 'train', 'delete']
    child = int((tmp_path / 'hangs').read_text())
    with contextlib.suppress(psutil.NoSuchProcess):
        assert psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_output_goes_to_the_log_of_the_trial(play, tmp_path):
    # The fake describes nothing else, and says nothing else, but a traceback.
    play('skypilot')
    log = (tmp_path / 'runs' / 'a=1' / 'log.txt').read_text()
    task = (tmp_path / 'runs' / 'a=1' / 'skypilot.yaml').read_text()
    assert log == task  # which tee repeats


@pytest.mark.parametrize(
    ('engine', 'changes', 'line'),
    [
        (
            'gcloud',
            {'engine': 'slurm'},
            "tpu.engine = 'slurm': must be one of 'gcloud', 'compute', 'xpk', "
            "'gcluster', 'skypilot'",
        ),
        (
            'gcloud',
            {'name': ''},
            "tpu.name = '': must be at most 20 of a-z, 0-9 and -, "
            'beginning with a letter',
        ),
        (
            'gcloud',
            {'project': '--quiet'},
            "tpu.project = '--quiet': must be the project that pays",
        ),
        (
            'gcloud',
            {'zone': 'us-east5'},
            "tpu.zone = 'us-east5': must be a zone, such as us-east5-a",
        ),
        (
            'skypilot',
            {'accelerator': 'V5P 256'},
            "tpu.accelerator = 'V5P 256': must be CHIP:TOPOLOGY, such as "
            'v5p:4x4x8, or a type, such as v5p-256',
        ),
        (
            'gcloud',
            {'bucket': 'gs://mine'},
            "tpu.bucket = 'gs://mine': must be a bucket of a-z, 0-9 and -, "
            'without gs://',
        ),
        (
            'gcloud',
            {'accelerator': 'v9-8'},
            "tpu.accelerator = 'v9-8': must be one of v4, v5litepod, v5p, "
            'v6e, or with its tpu.runtime',
        ),
        ('gcloud', {'slices': 0}, 'tpu.slices = 0: must be at least 1'),
        (
            'gcloud',
            {'image': 'moe:tpu'},
            "tpu.image = 'moe:tpu': must be absent: gcloud has no use for it",
        ),
        (
            'xpk',
            {'capacity': 'spot'},
            "tpu.capacity = 'spot': must be absent: xpk has no use for it",
        ),
        (
            'xpk',
            {'keep': True},
            'tpu.keep = True: must be absent: xpk has no use for it',
        ),
        ('xpk', {'cluster': ''}, "tpu.cluster = '': must be the GKE cluster"),
        (
            'xpk',
            {'image': ''},
            "tpu.image = '': must be an image that the cluster can pull",
        ),
        (
            'skypilot',
            {'slices': 2},
            'tpu.slices = 2: must be absent: skypilot has no use for it',
        ),
        (
            'skypilot',
            {'capacity': 'reserved'},
            "tpu.capacity = 'reserved': must be 'on_demand' or 'spot' with "
            'skypilot',
        ),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_line(engine, changes, line):
    with pytest.raises(ConfigError) as caught:
        parse(tpu.Options, {**plain(engine), **changes}, 'tpu')
    assert str(caught.value) == line


def test_a_new_accelerator_needs_its_runtime_named():
    given = options('gcloud', accelerator='v9-8', runtime='v2-alpha-tpuv9')
    assert given.runtime_version == 'v2-alpha-tpuv9'
    assert options('gcloud').runtime_version == 'v2-alpha-tpuv5'


def test_a_tool_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        tpu.run(trials('a=1'), options('xpk'), parallel=1, retries=0)
    assert caught.value.field == 'tpu.engine'
    assert 'there is no ' in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    'path', ['/etc/config.py', '../config.py:x', 'runs/a.py']
)
def test_a_config_that_the_hosts_would_not_have_is_refused(path):
    (trial,) = trials('a=1')
    object.__setattr__(trial, 'command', ('train.py', f'--config={path}'))
    with pytest.raises(ConfigError) as caught:
        next(tpu.dry_run([trial], options('gcloud'), parallel=1, retries=0))
    assert caught.value.field == '--config'


def test_a_plugin_that_the_hosts_would_not_have_is_refused():
    # Files are sent with the working folder; modules come by requirements.txt.
    (trial,) = trials('a=1')
    show = lambda: next(
        tpu.dry_run([trial], options('gcloud'), parallel=1, retries=0)
    )
    trial.plain['plugins'] = ('plugins/mine.py', 'my_package.mine')
    assert 'rsync' in show()
    trial.plain['plugins'] = ('../mine.py',)
    with pytest.raises(ConfigError, match=r'^config.plugins = .*sent to hosts'):
        show()


def test_every_option_is_a_flag_of_its_type():
    # The sweep makes its flags of the defaults.
    for name, value in plain('gcloud').items():
        assert isinstance(value, (str, int, bool)), name

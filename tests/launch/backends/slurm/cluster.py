"""A private SLURM on this machine: a few pretended nodes, loopback only."""

import contextlib
import getpass
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator

import psutil

_PROGRAMS = ('munged', 'slurmctld', 'slurmd', 'sbatch', 'setpriv')
_HOST = socket.gethostname().split('.')[0]
_SYSTEM = os.pathsep.join(['/usr/sbin', '/sbin'])

# Shares of processors are pretended: a node has more than the machine does.
# A requeued job waits for as long as credentials live, 120 s by default. JAX
# takes the port of a job's coordinator from its number, so that clusters side
# by side must number theirs differently; and the host from the name of the
# first node, which must resolve.
_CONF = """
ClusterName=private
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SchedulerParameters=sched_interval=1,bf_interval=1
FirstJobId={first_job}
KillWait=5
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

_MUNGE = {
    'key-file': 'key',
    'socket': 'sock',
    'pid-file': 'pid',
    'log-file': 'log',
    'seed-file': 'seed',
}


def lack() -> str:
    """What this machine lacks to have a private cluster; nothing if ''."""
    missing = [name for name in _PROGRAMS if not _program(name)]
    if missing:
        return f'no {", ".join(missing)}: see docs/how-to/slurm.md'
    try:
        socket.gethostbyname(_HOST)
    except OSError:
        return f'the name of this machine, {_HOST}, does not resolve'
    return ''


@contextlib.contextmanager
def running(nodes: int = 2, cpus: int = 4) -> Iterator[dict[str, str]]:
    """Starts a cluster, and ends it and its jobs.

    Args:
      nodes: how many to pretend.
      cpus: of a node.

    Yields:
      The environment in which SLURM's commands speak to it.
    """
    with contextlib.ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(
            prefix='slurm-', ignore_cleanup_errors=True
        )
        folder = pathlib.Path(stack.enter_context(temporary))
        folder.chmod(0o755)
        conf = folder / 'slurm.conf'
        names = [_HOST, *(f'{_HOST}-{i}' for i in range(2, nodes + 1))]
        _configure(conf, names, cpus)
        environment = {**os.environ, 'SLURM_CONF': str(conf)}
        daemons = [
            ['munged', '--foreground', '--force']
            + [f'--{k}={folder}/munge.{v}' for k, v in _MUNGE.items()],
            ['slurmctld', '-D', '-f', conf],
            *(['slurmd', '-D', '-f', conf, '-N', n] for n in names),
        ]
        for command in daemons:
            stack.enter_context(_daemon(command, folder, environment))
            if command[0] == 'munged':
                _until((folder / 'munge.sock').exists, folder)
        stack.callback(_end_jobs, environment)
        _until(lambda: _idle(environment) == nodes, folder)
        yield environment


def _program(name):
    path = os.pathsep.join([os.environ['PATH'], _SYSTEM])
    return shutil.which(name, path=path)


def _configure(conf, names, cpus):
    """Writes the cluster's files."""
    folder = conf.parent
    port, *ports = _free_ports(1 + len(names))
    lines = [
        f'NodeName={name} NodeHostname={_HOST} NodeAddr=127.0.0.1 '
        f'Port={port} CPUs={cpus} RealMemory=8000'
        for name, port in zip(names, ports, strict=True)
    ]
    for name in ('state', *(f'spool-{n}' for n in names)):
        (folder / name).mkdir()
    key = folder / 'munge.key'
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    conf.write_text(
        _CONF.format(
            folder=folder,
            host=_HOST,
            user=getpass.getuser(),
            port=port,
            first_job=int.from_bytes(os.urandom(2), 'big') + 1,
            nodes='\n'.join(lines),
        )
    )


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(('127.0.0.1', 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def _daemon(command, folder, environment):
    """Runs a daemon, which does not outlive this process either way."""
    name, *arguments = map(str, command)
    with open(folder / f'{name}.out', 'a') as log:
        process = subprocess.Popen(
            ['setpriv', '--pdeathsig=KILL', _program(name), *arguments],
            stdout=log,
            stderr=log,
            env=environment,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until(condition, folder, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            logs = [p.read_text()[-2000:] for p in folder.glob('*.out')]
            raise RuntimeError('\n'.join(['no SLURM came up:', *logs]))
        time.sleep(0.1)


def _idle(environment):
    """How many nodes wait for jobs."""
    found = subprocess.run(
        ['sinfo', '--noheader', '--Node', '--format=%t'],
        env=environment,
        capture_output=True,
        text=True,
    )
    return found.stdout.split().count('idle')


def _end_jobs(environment):
    """Kills what runs on the cluster, with or without its help."""
    subprocess.run(
        ['scancel', '--signal=KILL', '--full', '--me'],
        env=environment,
        capture_output=True,
    )
    conf = environment['SLURM_CONF']
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            theirs = process.environ()
            if 'SLURM_JOB_ID' in theirs and theirs.get('SLURM_CONF') == conf:
                process.kill()

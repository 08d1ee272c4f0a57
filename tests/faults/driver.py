"""Processes that train, fail where they are told to, and share their imports.

`python -m tests.faults.driver` reads requests, one JSON object a line, and
forks a process for each command line. A fault is put around the calls of the
system by which Python writes; what Orbax writes in native code is met by kills
at random times.
"""

import builtins
import contextlib
import errno
import hashlib
import io
import json
import os
import pathlib
import resource
import signal
import stat
import subprocess
import sys
import threading

CALLS = ('fsync', 'mkdir', 'rename', 'replace', 'unlink')


class Fault:
    """Fails at the n-th call that writes, from 1; counts them all.

    Args:
      kind: 'kill' ends the process before the call, when of a file that is to
        be put on the disk a part is there alone; 'full' fails this call and
        all after it for want of space; '' only counts.
      at: number of the call.
    """

    def __init__(self, kind, at):
        self.kind, self.at, self.count = kind, at, 0

    def install(self):
        """Puts the fault around the calls of this process."""
        for name in CALLS:
            setattr(os, name, self._around(getattr(os, name), name))
        given = io.open

        def opened(file, mode='r', *args, **options):
            if set(mode) & set('wxa+') and not isinstance(file, int):
                self._reached('open', file)
            return given(file, mode, *args, **options)

        builtins.open = io.open = opened

    def _around(self, call, name):
        def failing(*args, **options):
            self._reached(name, *args)
            return call(*args, **options)

        return failing

    def _reached(self, name, *args):
        self.count += 1
        if self.kind == 'full' and self.count >= self.at and name != 'unlink':
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.count != self.at or not self.kind:
            return
        state = os.fstat(args[0]) if name == 'fsync' else None
        if state and stat.S_ISREG(state.st_mode):
            with contextlib.suppress(OSError):  # open to be read alone
                os.ftruncate(args[0], max(0, state.st_size - 7))
        os.kill(os.getpid(), signal.SIGKILL)


def child(arguments, log, kind='', at=0, limit=None, after=None):
    """Runs `train.py` in this process, and ends it.

    Args:
      arguments: the command line.
      log: path for what is printed, and with `.count` for the number of calls.
      kind: kind of the fault.
      at: number of the call at which it happens.
      limit: largest size of a file in bytes.
      after: seconds after which the process is killed.
    """
    import train
    from moe.training import meeting

    # Through another process, which no limit holds for.
    with open(log, 'w') as file:
        printed = subprocess.Popen(['cat'], stdin=subprocess.PIPE, stdout=file)
    for number in (1, 2):
        os.dup2(printed.stdin.fileno(), number)
    printed.stdin.close()
    for name, number in (('stdout', 1), ('stderr', 2)):
        setattr(sys, name, os.fdopen(os.dup(number), 'w', 1))
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if after is not None:
        kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
        timer = threading.Timer(after, kill)
        timer.daemon = True
        timer.start()
    meeting._PATIENCE = 20  # seconds, with a partner that is killed
    fault, code = Fault(kind, at), 70
    keep_hashes()
    fault.install()
    try:
        code = train.main(['train.py', *arguments])
    finally:
        descriptor = os.open(f'{log}.count', os.O_CREAT | os.O_WRONLY)
        os.write(descriptor, str(fault.count).encode())
        if code == 70:
            import traceback

            traceback.print_exc()
        sys.stdout.close()
        sys.stderr.close()
        for number in (1, 2):
            os.close(number)
        printed.wait()
        os._exit(code)


def keep_hashes():
    """Has a run that is over write the hash of its parameters."""
    import jax
    import numpy as np

    from moe.training.trainer import MeshTrainer

    finalize = MeshTrainer.finalize

    def hashed(self, *arguments):
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(self.state._replace(key=None)):
            digest.update(np.asarray(leaf.addressable_data(0)).tobytes())
        if jax.process_index() == 0:
            path = self._workdir.with_suffix('.hash')
            descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
            os.write(descriptor, digest.hexdigest().encode())
            os.close(descriptor)
        finalize(self, *arguments)

    MeshTrainer.finalize = hashed


def serve():
    """Answers requests until there are no more."""
    import matplotlib.pyplot
    import orbax.checkpoint

    import train
    from moe.workloads import reports
    from moe.workloads.lm import report, workload

    del matplotlib, orbax, train, reports, report, workload
    for line in sys.stdin:
        request = json.loads(line)
        if 'wait' in request:
            status = os.waitpid(request['wait'], 0)[1]
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if not answer:
                child(**request)
        print(answer, flush=True)


class Driver:
    """The server, from the side of the tests.

    Args:
      environment: of the processes.
    """

    def __init__(self, environment):
        self._server = subprocess.Popen(
            [sys.executable, '-m', 'tests.faults.driver'],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=pathlib.Path(__file__).parents[2],
        )

    def close(self):
        with self._server:  # which closes the pipes
            self._server.stdin.close()

    def start(self, arguments, log, **fault):
        """Starts a process; returns its id."""
        arguments = [str(a) for a in arguments]
        return self._ask({'arguments': arguments, 'log': str(log), **fault})

    def wait(self, process):
        """Waits for the end of a process; returns its exit code."""
        return self._ask({'wait': process})

    def run(self, arguments, log, **fault):
        """Starts a process and waits; returns the exit code."""
        return self.wait(self.start(arguments, log, **fault))

    def _ask(self, request):
        self._server.stdin.write(json.dumps(request) + '\n')
        self._server.stdin.flush()
        return int(self._server.stdout.readline())


if __name__ == '__main__':
    serve()

"""The lock of a run's folder: one run at a time writes there.

It is an advisory lock of the kernel (`flock`) on the file `run.lock`, so that
it ends with its process, however that ends. The file says who holds it.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import Any

from moe.config import ConfigError
from moe.training.host import now, this_process

NAME = 'run.lock'
_HELD = (errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Holds the lock of a folder during the block.

    Args:
      workdir: the run's folder, made if absent.

    Raises:
      ConfigError: if a process that lives holds it, or the folder cannot be
        written.
    """
    path = workdir / NAME
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        allowed = f'a folder, or the name of a new one ({error.strerror})'
        raise ConfigError('workdir', str(workdir), allowed) from None
    try:
        yield
    finally:
        # Under the lock: who opens the file before and locks it after finds
        # that it is no longer that of the name.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: pathlib.Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if _refused(descriptor):
                raise _held(path, _holder(descriptor))
            if _is_at(path, descriptor):
                os.ftruncate(descriptor, 0)
                own = this_process() | {'since': now()}
                os.pwrite(descriptor, json.dumps(own).encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _refused(descriptor: int) -> bool:
    """Tries to lock a file; says whether another process has done so."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return True
        if error.errno not in _NO_LOCKS:
            raise
        # A file system without locks: only this host's processes are known.
        return _lives_here(_holder(descriptor))
    return False


def _lives_here(holder: dict[str, Any]) -> bool:
    if holder.get('host') != socket.gethostname():
        return False
    try:
        os.kill(holder['pid'], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return holder['pid'] != os.getpid()


def _is_at(path: pathlib.Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(descriptor, 1000, 0))
        return {
            'host': str(found['host']),
            'pid': int(found['pid']),
            'since': str(found['since']),
        }
    except (OSError, ValueError, TypeError, KeyError):
        return {}  # it is just being written


def _held(path: pathlib.Path, holder: dict[str, Any]) -> ConfigError:
    who = 'another process'
    if holder:
        who = 'process {pid} of {host}, since {since},'.format(**holder)
    allowed = f'free: {who} runs in it; stop that first, or take another folder'
    return ConfigError('workdir', str(path.parent), allowed)

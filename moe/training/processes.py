"""Several processes of one run: they start, agree, stop and end together.

A failure of one process ends all: the one that raises prints its error and
exits; the others fail in their next collective, or when JAX's coordinator
misses its heartbeat. With one process none of these functions does anything.
"""

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from moe import disk, progress
from moe.config import ConfigError, differences
from moe.training import meeting

_TIMEOUT = 10  # seconds of silence after which a process counts as dead
_FLAGS = ('--coordinator', '--processes', '--process')
_BY_HAND = ', '.join(_FLAGS)


def start(
    coordinator: str | None, count: int | None, index: int | None
) -> None:
    """Joins the other processes of a run, before any device is used.

    Args:
      coordinator: 'HOST:PORT' at which the first process listens. None takes
        all three from SLURM or the TPU pod; the others are then also None.
      count: number of processes.
      index: number of this process, from 0.

    Raises:
      ConfigError: for a missing or impossible argument, and without arguments
        outside of SLURM and TPU pods.
    """
    given: tuple[Any, Any, Any] = (coordinator, count, index)
    bind = None
    if given != (None, None, None):
        _check(*given)
        meeting.meet(*given)
        # By default the first process listens on every network.
        bind = coordinator if meeting.is_local(given[0]) else None
    try:
        with progress.shown('waiting for the other processes'):
            jax.distributed.initialize(
                *given,
                heartbeat_timeout_seconds=_TIMEOUT,
                shutdown_timeout_seconds=_TIMEOUT,
                coordinator_bind_address=bind,
            )
    except ValueError:
        allowed = f'absent, but on SLURM and TPU pods (else {_BY_HAND})'
        raise ConfigError('--distributed', True, allowed) from None
    except jax.errors.JaxRuntimeError as error:
        allowed = f'that of process 0, and a free port there ({error})'
        raise ConfigError('--coordinator', coordinator, allowed) from None


def _check(coordinator, count, index) -> None:
    """Checks arguments given by hand."""
    given = zip(_FLAGS, (coordinator, count, index), strict=True)
    for flag, value in given:
        if value is None:
            raise ConfigError(
                flag, value, f'given with the others ({_BY_HAND})'
            )
    host, _, port = coordinator.rpartition(':')
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError('--coordinator', coordinator, 'HOST:PORT')
    if count < 1:
        raise ConfigError('--processes', count, 'at least 1')
    if index not in range(count):
        raise ConfigError('--process', index, f'between 0 and {count - 1}')


def gather(value: Any) -> list[Any]:
    """Returns the values of all processes, in the order of the processes.

    Args:
      value: the value of this process, JSON.
    """
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return [value]
    raw = np.frombuffer(json.dumps(value, default=str).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(raw)))
    row = np.zeros(max(sizes), np.uint8)
    row[: len(raw)] = raw
    rows = multihost_utils.process_allgather(row)
    found = zip(rows, sizes, strict=True)
    return [json.loads(row[:size].tobytes()) for row, size in found]


@contextlib.contextmanager
def agreeing() -> Iterator[None]:
    """Raises a ConfigError of any process inside the block in all of them.

    All processes wait for each other at the end of the block.

    Raises:
      ConfigError: the process's own error, or that of another process.
    """
    own = None
    try:
        yield
    except ConfigError as error:
        own = error
    refused = gather(own and (own.field, own.value, own.allowed))
    if own:
        raise own
    for process, error in enumerate(refused):
        if error:
            field, value, allowed = error
            raise ConfigError(f'process {process}: {field}', value, allowed)


def check_same(what: str, value: dict[str, Any]) -> None:
    """Refuses a value that is not the same in all processes.

    Args:
      what: name of the value, for the message.
      value: the value of this process, plain data.

    Raises:
      ConfigError: in every process, if the values of any two differ.
    """
    first, *others = gather(value)
    for process, other in enumerate(others, start=1):
        if lines := list(differences(first, other, what)):
            allowed = (
                'the same in all processes, not in process 0 (there) and '
                f'{process} (now): ' + '; '.join(lines)
            )
            raise ConfigError(what, first, allowed)


@contextlib.contextmanager
def ending(*but: type[Exception]) -> Iterator[None]:
    """Exits at an error inside the block, if there are other processes.

    Python's own exit would first wait for threads and devices, which wait for
    the other processes.

    Args:
      *but: errors that all processes raise at once, which are raised as usual.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, but) or not jax.distributed.is_initialized():
            raise
        if disk.failure(error) is None:
            traceback.print_exc()
        line = ' '.join(str(error).split())[:200]
        print(
            f'process {jax.process_index()} of {jax.process_count()} ends, and '
            f'so will the others: {type(error).__name__}: {line}',
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)


def finish() -> None:
    """Waits for all processes, however long, and disconnects them."""
    if jax.distributed.is_initialized():
        multihost_utils.sync_global_devices('finish')
        jax.distributed.shutdown()

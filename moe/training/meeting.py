"""The processes of a run that is started by hand meet before it starts.

JAX's own start is silent until all are there. Here the first process listens
at the coordinator's address, the others report to it, and all of them say who
is missing. Then JAX takes over the address.
"""

import contextlib
import select
import socket
import time
from collections.abc import Iterator

from moe.config import ConfigError

_EVERY = 10.0  # seconds between lines about who is missing
_PATIENCE = 300.0  # seconds until the processes there give up, as JAX does
_HELLO = 'moe process'
_LOCAL = ('localhost', '127.0.0.1', '::1')


def is_local(coordinator: str) -> bool:
    """Returns whether an address is seen by this machine alone."""
    return _split(coordinator)[0] in _LOCAL


def meet(coordinator: str, count: int, index: int) -> None:
    """Waits for all processes; prints every 10 s who is missing.

    Args:
      coordinator: 'HOST:PORT' at which the first process listens.
      count: number of processes.
      index: number of this process, from 0.

    Raises:
      ConfigError: if some do not come, were started with another number of
        processes, or with the same index as another; or if the first process
        cannot listen at the address.
    """
    print(
        f'process {index} of {count} waits for all at {coordinator}', flush=True
    )
    if index:
        _report(coordinator, count, index)
    else:
        _listen(coordinator, count)


def _listen(coordinator: str, count: int) -> None:
    host, port = _split(coordinator)
    came: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(
                socket.create_server((host if host in _LOCAL else '', port))
            )
        except OSError as error:
            allowed = f'that of process 0, and a free port there ({error})'
            raise ConfigError('--coordinator', coordinator, allowed) from None
        for seconds in _ticks():
            end = time.monotonic() + _EVERY
            while (
                len(came) < count - 1 and (left := end - time.monotonic()) > 0
            ):
                _welcome(server, count, came, left, stack)
            for i in [i for i, other in came.items() if _gone(other)]:
                del came[i]
            missing = [str(i) for i in range(1, count) if i not in came]
            if not missing:
                break
            line = f'waits for process {", ".join(missing)} of {count}'
            _say(f'{line} ({seconds} s)', came.values())
        else:
            allowed = f'those that start; missing: {", ".join(missing)}'
            raise ConfigError('--processes', count, allowed)
        server.close()
        for connection in came.values():
            connection.sendall(b'go\n')
            connection.settimeout(_EVERY)
            with contextlib.suppress(OSError):
                connection.recv(1)  # it closes first: the port is free again


def _welcome(server, count, came, seconds, stack) -> None:
    """Lets one process in, if one comes within so many seconds."""
    if not select.select([server], [], [], seconds)[0]:
        return
    connection, _ = server.accept()
    connection.settimeout(2)
    try:
        hello, index, of = connection.recv(100).decode().rsplit(' ', 2)
        index, of = int(index), int(of)
    except (OSError, ValueError):
        connection.close()  # somebody else
        return
    wrong = ''
    if hello != _HELLO or not 0 < index < count or of != count:
        wrong = f'one of {count}'
    elif index in came:
        wrong = 'one that no other process has'
    if wrong:
        connection.sendall(f'no {wrong}\n'.encode())
        connection.close()
    else:
        came[index] = stack.enter_context(connection)


def _gone(other: socket.socket) -> bool:
    """Whether a process that has come has ended since; it sends no more."""
    return bool(select.select([other], [], [], 0)[0])


def _report(coordinator: str, count: int, index: int) -> None:
    for seconds in _ticks():
        end = time.monotonic() + _EVERY
        while time.monotonic() < end:
            try:
                connection = socket.create_connection(_split(coordinator), 5)
            except OSError:
                time.sleep(0.2)
                continue
            with connection:
                if _answered(connection, count, index):
                    return
            time.sleep(0.2)
        _say(f'waits for process 0 at {coordinator} ({seconds} s)')
    allowed = 'the address of process 0, which does not answer'
    raise ConfigError('--coordinator', coordinator, allowed)


def _answered(connection: socket.socket, count: int, index: int) -> bool:
    """Reports to the first process; returns whether all are there."""
    connection.settimeout(3 * _EVERY)
    with contextlib.suppress(OSError):
        connection.sendall(f'{_HELLO} {index} {count}'.encode())
        for line in connection.makefile(encoding='utf-8', errors='replace'):
            word, _, rest = line.strip().partition(' ')
            if word == 'go':
                return True
            if word == 'no':
                raise ConfigError('--process', index, rest)
            if word == 'waits':
                _say(f'{word} {rest}')
    return False


def _ticks() -> Iterator[int]:
    """Yields the seconds of each line, until patience ends."""
    begun = time.monotonic()
    while time.monotonic() - begun < _PATIENCE:
        yield round(time.monotonic() - begun + _EVERY)


def _say(line: str, others=()) -> None:
    print(line, flush=True)
    for connection in others:
        with contextlib.suppress(OSError):
            connection.sendall(f'{line}\n'.encode())


def _split(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(':')
    return host.strip('[]'), int(port)

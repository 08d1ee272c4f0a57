"""Compiled programs, kept from one process to the next.

JAX can read a program that it has compiled before from its persistent
compilation cache. Here it gets a folder of the user's and a cache that no
damaged file, full disk or other kind of processor can spoil.
"""

import contextlib
import functools
import hashlib
import os
import pathlib
import platform
import secrets
import stat
from typing import Any

import jax
import jaxlib

MAX_BYTES = 1 << 30  # of one kind of processor and version of JAX
_SUM_BYTES = hashlib.sha256().digest_size


def keep_programs() -> None:
    """Lets this process read and keep compiled programs, where it is safe.

    They are in `$XDG_CACHE_HOME/moe/programs`, by default
    `~/.cache/moe/programs`, by version of JAX and kind of processor, at most
    `MAX_BYTES` of each. Nothing happens with JAX's own settings
    `JAX_ENABLE_COMPILATION_CACHE=0` or `JAX_COMPILATION_CACHE_DIR`, where the
    folder cannot be written or belongs to somebody else, and on several CPU
    devices: XLA for CPUs (jax 0.10.2) gives all collectives that it reads back
    one identity. It starts JAX's devices.

    Source: docs.jax.dev/en/latest/persistent_compilation_cache.html.
    """
    settings: Any = jax.config
    chosen = settings.jax_compilation_cache_dir is not None
    if chosen or not settings.jax_enable_compilation_cache or _many_cpus():
        return
    try:
        path = folder()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(path):
            return
    except (OSError, RuntimeError):  # RuntimeError: no home
        return
    # Many small programs together cost as much as a large one.
    settings.update('jax_persistent_cache_min_compile_time_secs', 0.0)
    _give(Cache(path))


def _give(cache: Any) -> None:
    # There is no public way to give JAX a cache, only a folder. A JAX that has
    # moved its own compiles every time.
    with contextlib.suppress(ImportError, AttributeError):
        from jax._src import compilation_cache

        compilation_cache.reset_cache()
        compilation_cache._cache = cache
        compilation_cache._cache_initialized = True


def folder() -> pathlib.Path:
    """Returns the folder of this version of JAX and this kind of processor.

    Raises:
      RuntimeError: if the user has no home.
    """
    home = os.environ.get('XDG_CACHE_HOME', '')
    # A relative one is to be ignored, as the specification has it.
    base = pathlib.Path(home) if os.path.isabs(home) else None
    base = base or pathlib.Path.home() / '.cache'
    return base / 'moe' / 'programs' / kind(processor())


def kind(processor: str) -> str:
    """Returns a name for what a compiled program depends on beside JAX's key.

    Args:
      processor: description of the processor. JAX's key does not have it, and
        homes are shared between machines.
    """
    device = jax.devices()[0]
    parts = (
        jax.__version__,
        jaxlib.__version__,
        device.platform,
        device.device_kind,
        processor,
    )
    return hashlib.sha256('\n'.join(parts).encode()).hexdigest()[:16]


@functools.cache
def processor() -> str:
    """Returns name, features and number of the processors of this process."""
    lines = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        text = pathlib.Path('/proc/cpuinfo').read_text(errors='replace')
        first = text.split('\n\n')[0].splitlines()
        # Features alone would not do: code is tuned by the model, too. Others,
        # such as the clock, change by the minute.
        lines += [x for x in first if x.partition(':')[0].strip() in _KIND]
    if hasattr(os, 'sched_getaffinity'):
        lines.append(str(len(os.sched_getaffinity(0))))
    return '\n'.join(lines)


_KIND = {
    *('vendor_id', 'cpu family', 'model', 'model name', 'stepping', 'flags'),
    *('CPU implementer', 'CPU architecture', 'CPU variant', 'CPU part'),
    *('Features',),
}


def _many_cpus() -> bool:
    try:
        return len(jax.devices('cpu')) > 1
    except RuntimeError:  # JAX runs without CPU devices
        return False


def _is_ours(path: pathlib.Path) -> bool:
    """Whether no other user can write what this process would run."""
    if not hasattr(os, 'getuid'):
        return os.access(path, os.W_OK)
    found = path.stat()
    others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    mine = found.st_uid == os.getuid() and not others
    return mine and os.access(path, os.W_OK)


class Cache:
    """JAX's interface of a cache: a file a program, with its SHA-256 before.

    A file that is not whole is removed, and its program compiled anew. No
    error of the disk is raised: a program that cannot be kept is not.

    Args:
      path: folder of the programs, which exists.
      max_bytes: bytes of all programs; those read or written longest ago go.
    """

    def __init__(self, path: pathlib.Path, max_bytes: int = MAX_BYTES):
        self._path, self._max_bytes = path, max_bytes  # JAX reads _path

    def get(self, key: str) -> bytes | None:
        """Returns a program, or None.

        Args:
          key: JAX's key.
        """
        path = self._file(key)
        with contextlib.suppress(OSError):
            content = path.read_bytes()
            program = content[_SUM_BYTES:]
            if content[:_SUM_BYTES] == hashlib.sha256(program).digest():
                os.utime(path)
                return program
            path.unlink()
        return None

    def put(self, key: str, value: bytes) -> None:
        """Keeps a program.

        Args:
          key: JAX's key.
          value: the program.
        """
        path = self._file(key)
        # Processes that compile the same program do not write one file.
        beside = path.with_suffix(f'.{secrets.token_hex(8)}.new')
        try:
            self._make_room(len(value) + _SUM_BYTES)
            beside.write_bytes(hashlib.sha256(value).digest() + value)
            beside.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)

    def _file(self, key: str) -> pathlib.Path:
        # JAX's keys can be longer than names of files.
        return self._path / hashlib.sha256(key.encode()).hexdigest()

    def _make_room(self, size: int) -> None:
        """Removes programs, and what a killed process left, for a new one."""
        files = []
        for entry in os.scandir(self._path):
            with contextlib.suppress(FileNotFoundError):
                found = entry.stat(follow_symlinks=False)
                files.append((found.st_mtime, found.st_size, entry.path))
        total = size + sum(size for _, size, _ in files)
        for _, taken, path in sorted(files):
            if total <= self._max_bytes:
                return
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= taken

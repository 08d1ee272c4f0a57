"""Where indexes and tokens of text are kept, so that they are made once."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from moe import files
from moe.config import ConfigError

_META = 'meta.json'


def cache_folder() -> pathlib.Path:
    """Returns `$XDG_CACHE_HOME/moe`, or `~/.cache/moe`."""
    base = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    return pathlib.Path(base) / 'moe'


def key_of(*parts: Any) -> str:
    """Returns a hash of JSON values, 32 hexadecimal digits."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def identity(paths: Sequence[str]) -> list[list[Any]]:
    """Returns what tells that files are unchanged, without reading them.

    Args:
      paths: paths of files.

    Returns:
      Absolute path, size, and time of the last change in ns of each, JSON.
    """
    found = []
    for path in paths:
        stat = os.stat(path)
        found.append([os.path.realpath(path), stat.st_size, stat.st_mtime_ns])
    return found


def kept(
    key: str, build: Callable[[pathlib.Path], dict[str, Any]]
) -> tuple[pathlib.Path, dict[str, Any]]:
    """Returns a folder of the cache, which is built if it is not there.

    It is built beside and renamed: a process that ends meanwhile leaves none,
    and of several that build it at once the first to end wins.

    Args:
      key: name of the folder, a hash of all that its contents depend on.
      build: writes files into a folder; returns JSON about them.

    Returns:
      The folder, and what `build` returned.

    Raises:
      ConfigError: if the cache cannot be written.
    """
    folder = cache_folder() / key
    facts = _read(folder)
    if facts is not None:
        return folder, facts
    with _writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = pathlib.Path(
            tempfile.mkdtemp(prefix=f'.{key}.', dir=folder.parent)
        )
    try:
        with _writing(folder):
            facts = build(made)
            sizes = {p.name: p.stat().st_size for p in made.iterdir()}
            text = json.dumps({'facts': facts, 'sizes': sizes})
            files.write_text(made / _META, text)
        if _read(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    again = _read(folder)
    if again is None:
        raise ConfigError(
            'XDG_CACHE_HOME', str(cache_folder()), 'a folder to write to'
        )
    return folder, again


def _read(folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns the facts of a folder that is whole; else None."""
    try:
        meta = json.loads((folder / _META).read_text())
        for name, size in meta['sizes'].items():
            if (folder / name).stat().st_size != size:
                return None
        return meta['facts']
    except (OSError, ValueError, KeyError):
        return None


@contextlib.contextmanager
def _writing(folder: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        allowed = f'a folder to write to ({error.strerror or error})'
        value = str(folder.parent)
        raise ConfigError('XDG_CACHE_HOME', value, allowed) from None

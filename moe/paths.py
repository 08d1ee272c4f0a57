"""Paths that users give: what cannot be used is told before it is touched."""

import contextlib
import json
import os
import pathlib
import re
import traceback
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from moe.config import ConfigError
from moe.config.constraints import check_unicode

_URL = re.compile(r'[A-Za-z][A-Za-z0-9+.-]+:/')
# Linux's longest path, less the longest name inside a run's folder.
_LONGEST = 4096 - 256
# What reading damaged data raises.
_DAMAGES = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
_FOLDERS = (
    'checkpoints',
    'evaluations',
    'profile',
    'report',
    'tensorboard',
)


def check_local(path: str | os.PathLike, field: str = 'workdir') -> None:
    """Refuses what can be no path of this machine's file systems.

    Args:
      path: the path; nothing need exist there.
      field: the flag or field that gives it, for messages.

    Raises:
      ConfigError: for a URL, a NUL, a path that is too long, or one that may
        not be looked at.
    """
    text = os.fspath(path)
    if _URL.match(text):
        # A `pathlib.Path` of a URL has lost one of its slashes.
        text = re.sub('^([^:/]+):/(?!/)', r'\1://', text)
        allowed = (
            'a path of a file system (mount object storage: gcsfuse for gs://, '
            'mountpoint-s3 for s3://)'
        )
        raise ConfigError(field, text, allowed)
    if '\0' in text:
        raise ConfigError(field, text, 'a path, which has no NUL')
    size = len(os.fsencode(os.path.abspath(text)))
    if size > _LONGEST:
        allowed = f'a path of at most {_LONGEST} bytes ({size})'
        raise ConfigError(field, text, allowed)
    try:
        os.stat(text)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        allowed = f'a path that can be used ({error.strerror})'
        raise ConfigError(field, text, allowed) from None


def check_run_folder(workdir: pathlib.Path) -> None:
    """Refuses a folder in which no run can write; writes nothing there.

    Args:
      workdir: the run's folder, which need not exist.

    Raises:
      ConfigError: if it can be no folder, if it may not be written, or if
        there is a folder in the place of a file of a run or the reverse.
    """
    check_local(workdir)
    check_unicode('workdir', str(workdir))  # as Orbax must
    whole = [workdir, *workdir.absolute().parents]
    there = next(path for path in whole if os.path.lexists(path))
    if not there.is_dir():
        allowed = f'a folder, or the name of a new one ({there} is none)'
        raise ConfigError('workdir', str(workdir), allowed)
    if not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        allowed = f'a folder that can be written ({there} cannot)'
        raise ConfigError('workdir', str(workdir), allowed)
    if there != workdir:
        return
    for path in workdir.iterdir():
        folder = path.name in _FOLDERS
        if folder and not path.is_dir():
            raise ConfigError('workdir', str(path), 'a folder, or absent')
        if not folder and path.suffix and path.is_dir():
            raise ConfigError('workdir', str(path), 'a file, or absent')


@contextlib.contextmanager
def reading(path: pathlib.Path) -> Iterator[None]:
    """Tells in one line what a file or folder from anybody makes go wrong.

    Args:
      path: path of the file or folder that is read inside the block.

    Raises:
      ConfigError: for whatever damaged data can raise; it names the path, and
        the place in the code that could not use the data.
    """
    try:
        yield
    except ConfigError:
        raise
    except _DAMAGES as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f'{pathlib.PurePath(frame.filename).name}:{frame.lineno}'
        what = f'{type(error).__name__} at {place}: {error}'
        allowed = f'whole; it cannot be read ({what})'
        raise ConfigError('path', str(path), allowed) from None


def read_json(path: pathlib.Path, kind: type | tuple[type, ...] = dict) -> Any:
    """Reads a JSON file of a folder that may come from anybody.

    Args:
      path: path of the file.
      kind: type that the data must have, or several.

    Raises:
      ConfigError: for a file that cannot be read, is no JSON, or holds another
        type; it names the file.
    """
    with reading(path):
        found = json.loads(path.read_text(encoding='utf-8'))
        if not isinstance(found, kind):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            names = ' or '.join(one.__name__ for one in kinds)
            raise TypeError(f'no {names}')
        return found

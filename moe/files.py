"""Files that are whole or absent: written beside and renamed."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import IO, Any


@contextlib.contextmanager
def replacing(
    path: pathlib.Path | str, mode: str = 'w', **options: Any
) -> Iterator[IO]:
    """Opens a file that takes its name only when it is whole and on the disk.

    A process that ends inside the block, or a disk that is full, leaves what
    the name had before. What is no regular file, such as a pipe, is written
    directly.

    Args:
      path: path of the file, in a folder that exists.
      mode: as `open` has it, for writing.
      **options: further ones of `open`.

    Yields:
      The open file.

    Raises:
      OSError: if it cannot be written.
    """
    path = pathlib.Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        with path.open(mode, **options) as file:
            yield file
        return
    beside = path.with_name(f'.{path.name}.new')
    try:
        with beside.open(mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_text(path: pathlib.Path | str, text: str) -> None:
    """Writes a text, in UTF-8, in the place of what the file had.

    What UTF-8 does not have, as parts of paths, is written as escapes.

    Args:
      path: path of the file, in a folder that exists.
      text: the whole contents.

    Raises:
      OSError: if it cannot be written.
    """
    how = {'encoding': 'utf-8', 'errors': 'backslashreplace', 'newline': ''}
    with replacing(path, **how) as file:
        file.write(text)


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the lines of a file that are JSON objects, in order.

    Args:
      path: path of the file; one that is absent has none.
    """
    found = []
    for line in path.read_bytes().split(b'\n') if path.exists() else []:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def append_line(path: pathlib.Path, line: str) -> None:
    """Appends a line, and waits until it is on the disk.

    Args:
      path: path of the file, made if absent.
      line: the line, without its end.

    Raises:
      OSError: if it cannot be written.
    """
    with path.open('a', encoding='utf-8') as file:
        if file.tell() and not _ends_with_a_line(path):
            file.write('\n')  # a process ended inside the last one
        file.write(line + '\n')
        file.flush()
        os.fsync(file.fileno())


def _ends_with_a_line(path: pathlib.Path) -> bool:
    with path.open('rb') as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b'\n'


def _sync_folder(folder: pathlib.Path) -> None:
    """Puts the new name on the disk, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

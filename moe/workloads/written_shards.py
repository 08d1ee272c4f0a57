"""Shards that a command writes in processes, and goes on with when it ends."""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from moe import files, pool, progress
from moe.config import ConfigError
from moe.workloads.data_files import MANIFEST


class Sized(Protocol):
    """What a shard is made of."""

    @property
    def size(self) -> int:
        """Returns how many bytes it has, about."""


class Recorded(Protocol):
    """A shard of any kind whose result is kept in a file when it is whole."""

    @property
    def folder(self) -> str:
        """Returns the folder of the shard."""

    @property
    def key(self) -> str:
        """Returns what identifies all that it depends on."""

    @property
    def record(self) -> pathlib.Path:
        """Returns the file that says that the shard is whole."""

    @property
    def parts(self) -> Sequence[Sized]:
        """Returns what it is made of."""


def grouped(parts: Sequence[Any], size: int) -> list[list[Any]]:
    """Returns neighbouring parts together, up to a size each.

    Args:
      parts: parts in their order, each with a `size` in bytes.
      size: bytes; a part that is larger is alone.
    """
    groups: list[list[Any]] = []
    filled = 0
    for part in parts:
        if not groups or (filled and filled + part.size > size):
            groups.append([])
            filled = 0
        groups[-1].append(part)
        filled += part.size
    return groups


def keep(shard: Recorded, entry: dict[str, Any]) -> None:
    """Says that a shard is whole.

    Args:
      shard: the shard, whose files are all there.
      entry: what is told of it, JSON; of its `files` by name the `bytes`.
    """
    text = json.dumps({**entry, 'key': shard.key})
    files.write_text(shard.record, text)


def finished(shard: Recorded) -> dict[str, Any] | None:
    """Returns the entry that was kept of a shard that is there whole."""
    try:
        entry = json.loads(shard.record.read_text())
        for name, about in entry['files'].items():
            path = os.path.join(shard.folder, name)
            if os.path.getsize(path) != about['bytes']:
                return None
        return entry if entry.pop('key') == shard.key else None
    except (OSError, ValueError, KeyError):
        return None


def described(path: str | pathlib.Path) -> dict[str, Any]:
    """Returns the `bytes` and the `sha256` of a file."""
    with open(path, 'rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
    return {'bytes': os.path.getsize(path), 'sha256': digest}


def write_all(
    shards: Sequence[Recorded],
    write: Callable[[Any], dict[str, Any]],
    processes: int,
    doing: str,
) -> list[dict[str, Any]]:
    """Writes the shards that are not there yet; shows how far it is.

    Args:
      shards: the shards.
      write: writes one and returns its entry; a function of a module.
      processes: how many at once; 0 for one a core.
      doing: what is shown, such as 'tokenizing'.

    Returns:
      The entries of all shards, in their order.
    """
    entries = {shard.record: finished(shard) for shard in shards}
    todo = [shard for shard in shards if entries[shard.record] is None]
    size = {s.record: sum(part.size for part in s.parts) for s in shards}
    total = sum(size.values())
    done = total - sum(size[shard.record] for shard in todo)
    count = processes or os.cpu_count() or 1
    with progress.shown(doing, total, 'bytes') as reach:
        reach(done)
        for shard, entry in pool.results(write, todo, count):
            entries[shard.record] = entry
            done += size[shard.record]
            reach(done)
    return [entries[shard.record] or {} for shard in shards]


def write_manifest(
    folder: pathlib.Path, manifest: dict[str, Any], *patterns: str
) -> None:
    """Writes `manifest.json`, after which the folder is whole.

    Args:
      folder: folder of the shards.
      manifest: what is written, JSON, with the entries as `shards`.
      *patterns: globs of shards; those of another number of shards, which the
        entries do not have, are removed.
    """
    known = {name for entry in manifest['shards'] for name in entry['files']}
    for pattern in patterns:
        for path in folder.glob(pattern):
            if path.name not in known:
                path.unlink()
    text = json.dumps(manifest, indent=2) + '\n'
    files.write_text(folder / MANIFEST, text)


@contextlib.contextmanager
def new_folder(path: str, flag: str) -> Iterator[pathlib.Path]:
    """Makes a folder, and refuses one that cannot be written to.

    Args:
      path: path of the folder, which may be there.
      flag: the flag that holds it, for messages.

    Raises:
      ConfigError: if it, or a file inside the context, cannot be written.
    """
    folder = pathlib.Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except OSError as error:
        if error.filename is None:
            raise
        allowed = f'a folder to write to ({error.strerror})'
        raise ConfigError(flag, path, allowed) from None

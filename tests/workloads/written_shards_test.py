"""Shards: what is together, what is there whole, and what is left over."""

import dataclasses
import hashlib
import json
import pathlib
from typing import NamedTuple

import pytest

from moe.config import ConfigError
from moe.workloads.written_shards import (
    described,
    finished,
    grouped,
    keep,
    new_folder,
    write_all,
    write_manifest,
)


class Part(NamedTuple):
    start: int
    size: int


@dataclasses.dataclass(frozen=True)
class Shard:
    folder: str
    name: str
    parts: tuple[Part, ...] = (Part(0, 4),)
    key: str = 'key'

    @property
    def record(self):
        return pathlib.Path(self.folder) / f'.{self.name}.json'


def write(shard):
    path = pathlib.Path(shard.folder) / shard.name
    path.write_text(shard.name)
    entry = {'files': {shard.name: described(path)}}
    keep(shard, entry)
    return entry


def test_neighbours_together():
    parts = [Part(i, size) for i, size in enumerate([4] * 5)]
    starts = [[p.start for p in group] for group in grouped(parts, 9)]
    assert starts == [[0, 1], [2, 3], [4]]
    assert [len(group) for group in grouped(parts, 3)] == [1] * 5
    assert grouped([], 3) == []
    # An empty part begins a group, and the next one joins it.
    parts = [Part(i, size) for i, size in enumerate([0, 9, 0, 1])]
    assert [len(group) for group in grouped(parts, 5)] == [2, 2]


def test_what_is_there_stays(tmp_path):
    shards = [Shard(str(tmp_path), name) for name in 'abc']
    first = write(shards[1])
    calls = []

    def counted(shard):
        calls.append(shard.name)
        return write(shard)

    found = write_all(shards, counted, 1, 'writing')
    assert calls == ['a', 'c']
    assert [list(entry['files']) for entry in found] == [['a'], ['b'], ['c']]
    assert found[1] == first
    digest = hashlib.sha256(b'b').hexdigest()
    assert first['files']['b'] == {'bytes': 1, 'sha256': digest}
    # Of other contents, and of another size.
    assert finished(dataclasses.replace(shards[0], key='other')) is None
    (tmp_path / 'a').write_text('longer')
    assert finished(shards[0]) is None


def test_shards_of_another_number_go(tmp_path):
    for name in ('t-0-of-1', 't-0-of-2', 'other'):
        (tmp_path / name).write_text('x')
    manifest = {'shards': [{'files': {'t-0-of-1': {}}}]}
    write_manifest(tmp_path, manifest, 't-*-of-*')
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {'t-0-of-1', 'other', 'manifest.json'}
    text = (tmp_path / 'manifest.json').read_text()
    assert json.loads(text) == manifest


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_text('')
    path = str(tmp_path / 'file' / 'out')
    with (
        pytest.raises(ConfigError, match=r'--out = .*a folder to write to'),
        new_folder(path, '--out'),
    ):
        pass
    with new_folder(str(tmp_path / 'new' / 'out'), '--out') as folder:
        assert folder.is_dir()

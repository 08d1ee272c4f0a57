"""The cache of indexes and tokens: made once, whole or absent."""

import os
import pathlib

import pytest

from moe.config import ConfigError
from moe.workloads.data_cache import cache_folder, identity, kept, key_of


def test_folder(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert cache_folder() == tmp_path / 'moe'
    monkeypatch.setenv('XDG_CACHE_HOME', '')
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    assert cache_folder() == tmp_path / 'home/.cache/moe'


def build(times):
    def make(folder):
        times.append(folder)
        (folder / 'a').write_text('text')
        return {'n': 3}

    return make


def test_made_once(cache):
    times = []
    for _ in range(2):
        folder, facts = kept('key', build(times))
        assert (folder, facts) == (cache / 'key', {'n': 3})
        assert (folder / 'a').read_text() == 'text'
    assert len(times) == 1
    assert sorted(p.name for p in cache.iterdir()) == ['key']


@pytest.mark.parametrize('damage', ['cut', 'gone', 'meta'])
def test_made_again_when_damaged(cache, damage):
    times = []
    folder, _ = kept('key', build(times))
    if damage == 'cut':
        (folder / 'a').write_text('te')
    elif damage == 'gone':
        (folder / 'a').unlink()
    else:
        (folder / 'meta.json').write_text('{')
    folder, _ = kept('key', build(times))
    assert (folder / 'a').read_text() == 'text'
    assert len(times) == 2


def test_nothing_is_left_of_what_fails(cache):
    def fail(folder):
        (folder / 'a').write_text('text')
        raise ConfigError('files', 'x', 'other')

    with pytest.raises(ConfigError):
        kept('key', fail)
    assert list(cache.iterdir()) == []


def test_another_process_that_is_first(cache):
    def make(folder):
        kept('key', build([]))
        (folder / 'a').write_text('mine')
        return {'n': 4}

    folder, facts = kept('key', make)
    assert (facts, (folder / 'a').read_text()) == ({'n': 3}, 'text')


def test_no_folder_to_write_to(monkeypatch, tmp_path):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    with pytest.raises(ConfigError, match='a folder to write to') as caught:
        kept('key', build([]))
    assert '\n' not in str(caught.value)


def test_keys(tmp_path):
    assert key_of('a', [1]) == key_of('a', [1]) != key_of('a', [2])
    path = tmp_path / 'a'
    path.write_text('one')
    first = identity([str(path)])
    assert first == identity([str(path)])
    os.utime(path, ns=(1, 1))
    assert first != identity([str(path)])
    assert pathlib.Path(first[0][0]).name == 'a'

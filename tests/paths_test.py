"""Every path that cannot be used is refused before anything is made."""

import os
import pathlib

import pytest

from moe import paths
from moe.config import ConfigError


@pytest.mark.parametrize(
    ('path', 'reason'),
    [
        ('gs://bucket/run', 'mount object storage'),
        ('gs:/bucket/run', 'mount object storage'),  # as pathlib has
        ('s3://bucket/run', 'mount object storage'),
        ('file:///run', 'mount object storage'),
        ('a\0b', 'no NUL'),
        ('x' * 256, 'File name too long'),
        ('x/' * 1950, 'at most 3840 bytes'),
    ],
)
@pytest.mark.parametrize('check', [paths.check_local, paths.check_run_folder])
def test_no_path_of_a_file_system(tmp_path, monkeypatch, check, path, reason):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=reason) as error:
        check(pathlib.Path(path))
    assert error.value.field == 'workdir'
    assert list(tmp_path.iterdir()) == []


def test_paths_that_can_be_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ('run', 'a/b/c', '.', 'C:/run', 'a b', 'ü'):
        paths.check_run_folder(pathlib.Path(path))


def test_a_name_that_is_no_utf_8(tmp_path):
    # It can be read, but Orbax cannot write there.
    path = tmp_path / 'caf\udce9'
    os.mkdir(path)
    paths.check_local(path)
    with pytest.raises(ConfigError, match='in UTF-8'):
        paths.check_run_folder(path)


@pytest.mark.parametrize(
    ('made', 'refused', 'reason'),
    [
        ('run', 'run', 'is none'),
        ('run', 'run/inside', 'is none'),
        ('run/checkpoints', 'run', 'a folder, or absent'),
        ('run/tensorboard', 'run', 'a folder, or absent'),
        ('run/metrics.jsonl/x', 'run', 'a file, or absent'),
        ('run/config.json/x', 'run', 'a file, or absent'),
        ('run/sample.txt/x', 'run', 'a file, or absent'),
    ],
)
def test_files_and_folders_of_the_wrong_kind(tmp_path, made, refused, reason):
    path = tmp_path / made
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('')
    with pytest.raises(ConfigError, match=reason):
        paths.check_run_folder(tmp_path / refused)


def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    # Of the superuser, who may write anywhere, access is asked in vain.
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
    with pytest.raises(ConfigError, match='can be written'):
        paths.check_run_folder(tmp_path / 'run')


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (None, 'No such file'),
        (b'', 'JSONDecodeError'),
        (b'[]', 'TypeError at paths.py:[0-9]+: no dict'),
        (b'{"a": ', 'JSONDecodeError'),
        (b'\xff\xfe', 'UnicodeDecodeError'),
        (b'[' * 100_000, 'RecursionError'),
    ],
)
def test_json_that_is_damaged(tmp_path, content, reason):
    path = tmp_path / 'config.json'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=reason) as error:
        paths.read_json(path)
    assert 'config.json' in str(error.value)


def test_a_url_is_told_whole():
    # Also as pathlib has it, with one slash less.
    for path in ('gs://bucket/run', pathlib.Path('gs://bucket/run')):
        with pytest.raises(ConfigError) as caught:
            paths.check_local(path)
        assert caught.value.value == 'gs://bucket/run'

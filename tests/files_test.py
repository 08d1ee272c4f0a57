"""Files are whole or absent, whatever ends the writing of them."""

import errno
import os

import pytest

from moe import files


def test_a_file_takes_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    with files.replacing(path) as file:
        file.write('new')
        assert path.read_text() == 'old'
    assert path.read_text() == 'new'
    files.write_text(path, 'é\r\n')
    assert path.read_bytes() == b'\xc3\xa9\r\n'
    assert os.listdir(tmp_path) == ['a.txt']


def test_what_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'a.txt'
    path.write_text('old')

    def full(descriptor):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space left'):
        files.write_text(path, 'new')
    with pytest.raises(KeyboardInterrupt), files.replacing(path):
        raise KeyboardInterrupt
    assert path.read_text() == 'old'
    assert os.listdir(tmp_path) == ['a.txt']


def test_links_and_pipes_stay(tmp_path):
    target, link = tmp_path / 'target', tmp_path / 'link'
    target.write_text('old')
    link.symlink_to(target)
    files.write_text(link, 'new')
    assert link.is_symlink()
    assert target.read_text() == 'new'
    with open(os.devnull, 'wb') as null:
        files.write_text(f'/dev/fd/{null.fileno()}', 'new')
    assert not os.path.isfile(os.devnull)


def test_append_line(tmp_path):
    path = tmp_path / 'lines'
    files.append_line(path, 'a')
    files.append_line(path, 'b')
    assert path.read_text() == 'a\nb\n'
    # After what a process was writing when it ended.
    path.write_text('a\nb')
    files.append_line(path, 'c')
    assert path.read_text() == 'a\nb\nc\n'

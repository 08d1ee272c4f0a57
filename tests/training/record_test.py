"""Records: whole or damaged, of this format or another; what errors mean."""

import errno
import hashlib
import json
import os

import numpy as np
import pytest

from moe.config import ConfigError
from moe.training import record
from moe.training.record import Damage, Leaf, cause, read_record
from tests.training import damage


@pytest.fixture
def folder(saved, tmp_path):
    return damage.copy(saved, tmp_path / 'run') / 'checkpoints' / '3'


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp('saved')
    damage.save(path, 3)
    return path


def test_what_is_recorded(folder):
    found = read_record(folder)
    assert (found.step, found.position) == (3, {'next_index': 3})
    kinds = {name: leaf[:2] for name, leaf in found.leaves.items()}
    assert kinds == {
        'step': ('int32', ()),
        'params/half': ('bfloat16', (5, 7)),
        'params/layers/0': ('float32', (64, 33)),
        'params/zeros': ('float32', (3, 4)),
        'opt_state/1/count': ('uint8', ()),
        'model_state/flags': ('bool', (9,)),
        'key': ('key<fry>', ()),
        'guard/norms': ('float32', (64,)),
        'guard/seen': ('int32', ()),
        'guard/updates': ('int32', ()),
        'guard/skipped': ('int32', ()),
        'guard/in_a_row': ('int32', ()),
    }


def test_checksums_in_hexadecimal_digits():
    leaf = Leaf('float32', (2,), '')
    sums = np.array([[1, 2**32 - 1]], np.uint32)
    found = record.with_checksums({'a': leaf}, sums)
    assert found == {'a': leaf._replace(checksum='00000001ffffffff')}


def test_any_flipped_bit_is_seen(folder):
    path = folder / record.FILE
    raw = path.read_bytes()
    for change in damage.flips(40).values():
        path.write_bytes(change(raw))
        with pytest.raises(Damage):
            read_record(folder)


@pytest.mark.parametrize('raw', [b'null', b'[]', b'"a"', b'9', b'[' * 9999])
def test_any_json_is_a_record_or_not(raw, folder):
    path = folder / record.FILE
    for text in (raw, raw + b'\n' + hashlib.sha256(raw).hexdigest().encode()):
        path.write_bytes(text)
        with pytest.raises(Damage, match='is not a record'):
            read_record(folder)


def test_formats(folder, tmp_path, monkeypatch):
    # Format 2 was JSON alone; a later one has its checksum.
    path = folder / record.FILE
    line = path.read_bytes().partition(b'\n')[0]
    path.write_bytes(line)
    with pytest.raises(Damage, match='does not have its checksum'):
        read_record(folder)
    path.write_text(json.dumps({'format': 2, 'position': {}}))
    with pytest.raises(ConfigError, match=r'of format 3: .* is of format 2'):
        read_record(folder)
    monkeypatch.setattr(record, 'FORMAT', 4)
    damage.save(tmp_path / 'new', 5)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r'of format 3: .* is of format 4'):
        read_record(tmp_path / 'new' / 'checkpoints' / '5')


# What an error says, and whether it is damage, a refusal, or itself.
ERRORS = {
    'gone': (FileNotFoundError(errno.ENOENT, 'No such file'), Damage),
    'disk': (OSError(errno.EIO, 'Input/output error'), Damage),
    'store': (ValueError('DATA_LOSS: Error reading "a/0": bad'), Damage),
    'may not': (PermissionError(errno.EACCES, 'Permission'), ConfigError),
    'stored, may not': (ValueError('PERMISSION_DENIED: no'), ConfigError),
    'memory': (MemoryError(), MemoryError),
    'stored, memory': (ValueError('RESOURCE_EXHAUSTED: no'), ValueError),
    'handles': (OSError(errno.EMFILE, 'Too many open files'), OSError),
}


@pytest.mark.parametrize('name', ERRORS)
def test_what_errors_mean(name, tmp_path):
    error, kind = ERRORS[name]
    found = cause(tmp_path, error)
    assert type(found) is kind
    if kind is not type(error):
        assert str(tmp_path) in str(found)


@pytest.mark.skipif(os.geteuid() != 0, reason='root can become another user')
def test_a_file_that_may_not_be_read_is_no_damage(folder):
    (folder / record.FILE).chmod(0)
    os.seteuid(65534)
    try:
        with pytest.raises(ConfigError, match=r'may be read, not .*/metadata'):
            read_record(folder)
    finally:
        os.seteuid(0)

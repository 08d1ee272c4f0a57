"""`export` writes a run as transformers reads it."""

import json

import numpy as np
import pytest

from moe.checkpoints.__main__ import main
from moe.checkpoints.hf.files import find_tensors, read_tensor
from tests.checkpoints.hf.goldens import FOLDER

pytestmark = pytest.mark.slow

SOURCE = FOLDER / 'granitemoe'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('run') / 'a'
    flag = f'--workdir={folder}'
    assert main(['', 'import', str(SOURCE), flag, '--dtype=bfloat16']) == 0
    return folder


def exported(run, folder, *flags):
    return main(['', 'export', str(run), f'--output={folder}', *flags])


def test_parameters_in_bfloat16_are_rounded_once(run, tmp_path, capsys):
    assert exported(f'{run}:0', tmp_path / 'a', '--dtype=bfloat16') == 0
    assert '29 tensors of step 0 in 1 file(s)' in capsys.readouterr().out
    theirs, ours = find_tensors(SOURCE), find_tensors(tmp_path / 'a')
    assert theirs.keys() == ours.keys()
    for name, stored in theirs.items():
        assert ours[name].dtype == 'BF16'
        wanted = read_tensor(stored).astype('bfloat16')
        assert read_tensor(ours[name]).tobytes() == wanted.tobytes()
    config = json.loads((tmp_path / 'a' / 'config.json').read_text())
    assert config['dtype'] == 'bfloat16'
    before = json.loads((SOURCE / 'config.json').read_text())
    assert {**config, 'dtype': 'float32'} == before


def test_tensors_have_the_dtypes_of_the_import(run, tmp_path):
    assert exported(run, tmp_path / 'a', '--shard_size=60KB') == 0
    stored = find_tensors(tmp_path / 'a')
    assert {one.dtype for one in stored.values()} == {'F32'}
    assert len({one.path for one in stored.values()}) > 2


@pytest.mark.parametrize(
    ('flags', 'line'),
    [
        (['--family=gpt2'], "--family = 'gpt2': must be one of deepseek_v3"),
        (['--family=llama'], 'must be'),
        (['--shard_size=big'], "--shard_size = 'big': must be a size such as"),
        (['--dtype=int8'], '--dtype'),
        (['--config.steps=3'], '--config.steps'),
    ],
)
def test_what_cannot_be_written_is_one_line(run, tmp_path, capsys, flags, line):
    assert exported(run, tmp_path / 'a', *flags) == 2
    err = capsys.readouterr().err
    assert line in err
    assert err.count('\n') == 1
    assert not (tmp_path / 'a').exists()


def test_folders_that_cannot_be_used_are_refused(run, tmp_path, capsys):
    assert exported(tmp_path / 'none', tmp_path / 'a') == 2
    assert exported(f'{run}:7', tmp_path / 'a') == 2
    assert 'step = 7' in capsys.readouterr().err
    (tmp_path / 'x').write_text('')
    assert exported(run, tmp_path) == 2
    assert '--output' in capsys.readouterr().err
    assert main(['', 'export', str(run)]) == 2
    assert '--output = None: must be given' in capsys.readouterr().err


def test_the_family_is_found_where_one_alone_fits(run, tmp_path, capsys):
    (run / 'published').rename(run / 'elsewhere')
    try:
        assert exported(run, tmp_path / 'a') == 2
        line = 'one of granitemoe, granitemoeshared, which fit alike'
        assert line in capsys.readouterr().err
        assert exported(run, tmp_path / 'a', '--family=granitemoe') == 0
    finally:
        (run / 'elsewhere').rename(run / 'published')
    found = find_tensors(tmp_path / 'a')
    # That of the run, as nothing says what it was.
    assert {one.dtype for one in found.values()} == {'BF16'}
    assert np.prod(next(iter(found.values())).shape)

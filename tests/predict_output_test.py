"""Where predictions are written: beside any input, whole or not at all."""

import os
import types

import pytest

from moe import predict
from moe.config import ConfigError
from moe.workloads.multitask.data.delimited import Problems


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command on a run that predicts two rows, or fails after one."""

    def run(*arguments, fails=False):
        def batches(inputs, left_out, top):
            yield {'row': [1], 'click': [0.25]}
            if fails:
                raise ConfigError('a.csv:3', '', 'a row')
            yield {'row': [3], 'click': [0.5]}

        made = types.SimpleNamespace(
            read_inputs=lambda files, **given: (None, Problems(False)),
            predict_batches=batches,
            variables=None,
        )
        monkeypatch.setattr(predict, 'load', lambda *given: made)
        return predict.main(['moe.predict', *arguments])

    (tmp_path / 'data' / 'deep').mkdir(parents=True)
    for name in ('a.csv', 'b.csv', 'deep/c.csv'):
        (tmp_path / 'data' / name).write_text('a table')
    (tmp_path / 'link').symlink_to('data')
    (tmp_path / 'soft.csv').symlink_to('data/a.csv')
    os.link(tmp_path / 'data' / 'a.csv', tmp_path / 'hard.csv')
    monkeypatch.chdir(tmp_path)
    return run


@pytest.mark.parametrize(
    ('pattern', 'output'),
    [
        ('data/a.csv', 'data/a.csv'),
        ('data/a.csv', 'data/../data/./a.csv'),
        ('data/a.csv', 'link/a.csv'),
        ('data/a.csv', 'soft.csv'),
        ('data/a.csv', 'hard.csv'),
        ('soft.csv', 'data/a.csv'),
        ('data/*.csv', 'data/b.csv'),
        # Not yet there, but an input next time.
        ('data/*.csv', 'data/new.csv'),
        ('data/*.csv', 'link/new.csv'),
        ('link/*.csv', 'data/new.csv'),
        ('*.csv', 'new.csv'),
        ('data/**/*.csv', 'data/deep/new.csv'),
        ('data/**', 'data/deep/new.csv'),
    ],
)
def test_no_input_is_written(command, capsys, pattern, output):
    assert command(f'--input={pattern}', f'--output={output}') == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"moe.predict: --output = '{output}': must be no")
    with open('data/a.csv') as file:
        assert file.read() == 'a table'
    assert not os.path.exists('data/new.csv')


@pytest.mark.parametrize(
    ('pattern', 'output'),
    [
        ('data/*.csv', 'data/new.txt'),
        ('data/*.csv', 'data/deep/new.csv'),
        ('data/*.csv', 'new.csv'),
        ('data/a.csv', 'data/b.csv'),
    ],
)
def test_written_whole(command, tmp_path, pattern, output):
    given = f'--input={pattern}', f'--output={output}'
    before = sorted(tmp_path.rglob('*'))
    # A row that cannot be predicted leaves what was there.
    assert command(*given, fails=True) == 2
    assert sorted(tmp_path.rglob('*')) == before
    assert command(*given) == 0
    with open(output) as file:
        assert file.read() == 'row,click\n1,0.25\n3,0.5\n'
    assert len({*tmp_path.rglob('*')} - {*before, tmp_path / output}) == 0


def test_no_folder_for_the_output(command, capsys):
    assert command('--input=data/a.csv', '--output=no/such.csv') == 2
    assert 'a folder that exists' in capsys.readouterr().err

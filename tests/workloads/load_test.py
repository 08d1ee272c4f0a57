"""`moe.load`: the folder of a run opened, of any workload."""

import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import moe
from moe import sample
from moe.config import ConfigError, Damaged
from moe.training.checkpoint import Checkpoints
from moe.training.folder import write_plain_config
from tests import tiny
from tests.training import damage

pytestmark = pytest.mark.slow


def test_import_is_quick():
    # Nothing of JAX is loaded before a run is.
    code = "import sys, moe; print('jax' in sys.modules, moe.load.__name__)"
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True
    )
    assert done.stdout == 'False load\n', done.stderr


def saved(folder, plain, steps=(1,), make=tiny.state):
    """A run's folder with checkpoints of the parameters that `make` makes."""
    folder.mkdir()
    write_plain_config(folder, plain)
    config = tiny.check(plain)
    checkpoints = Checkpoints(folder, keep=None)
    for step in steps:
        state = jax.device_put(make(config))
        state = state._replace(
            step=np.int32(step),
            params=jax.tree.map(lambda x, s=step: x * s, state.params),
        )
        checkpoints.save(step, state, {'next_index': step})
    checkpoints.close()
    return folder


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Two checkpoints, and two lines of metrics."""
    path = saved(tmp_path_factory.mktemp('runs') / 'run', tiny.plain(), (1, 2))
    lines = [{'step': 1, 'train/loss': 5.0}, {'step': 2, 'train/loss': 4.0}]
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (path / 'metrics.jsonl').write_text(text)
    return path


def test_checkpoint_is_chosen_by_its_step(folder):
    newest, first = moe.load(folder), moe.load(str(folder), step=1)
    assert (newest.step, first.step) == (2, 1)
    for new, old in zip(
        *(jax.tree.leaves(run.variables['params']) for run in (newest, first)),
        strict=True,
    ):
        np.testing.assert_array_equal(new, 2 * old)
    with pytest.raises(ConfigError, match=r'step = 3: .* \(1, 2\)'):
        moe.load(folder, step=3)


def test_damage_is_told_and_an_older_checkpoint_read(folder, tmp_path, capsys):
    copy = damage.copy(folder, tmp_path / 'run')
    newest = copy / 'checkpoints' / '2'
    damage.flip_a_value(newest)
    before = damage.files(copy)
    run = moe.load(copy)
    same = jax.tree.map(
        np.array_equal,
        run.variables['params'],
        moe.load(folder, step=1).variables['params'],
    )
    assert all(jax.tree.leaves(same))
    assert run.step == 1
    err = capsys.readouterr().err
    assert re.fullmatch(f'{newest} is damaged: leaf .*; step 1 is used\n', err)
    with pytest.raises(Damaged, match=f'{newest} is damaged: leaf'):
        _ = moe.load(copy, step=2).variables
    (copy / 'checkpoints' / '1' / 'data' / 'metadata').write_text('{}')
    assert sample.main(['', f'--workdir={copy}']) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f'moe.sample: {copy}/checkpoints/1 is damaged: data/'
    )
    before['checkpoints/1/data/metadata'] = b'{}'
    assert damage.files(copy) == before


def test_metrics_are_columns(folder):
    steps, values = moe.load(folder).metrics['train/loss']
    assert steps.tolist() == [1, 2]
    assert values.tolist() == [5.0, 4.0]


def test_config_is_checked(folder):
    run = moe.load(folder)
    # Partials of one router are not equal, but read alike.
    assert repr(run.config) == repr(tiny.parsed())
    assert run.workdir == folder


def test_run_before_its_first_checkpoint(tmp_path):
    # Its config and metrics can be read, its parameters cannot.
    write_plain_config(tmp_path, tiny.plain())
    run = moe.load(tmp_path)
    assert run.step is None
    assert run.metrics == {}
    with pytest.raises(ConfigError, match='a run with a checkpoint'):
        run.logits('text')
    with pytest.raises(ConfigError, match='there is none'):
        moe.load(tmp_path, step=1)
    assert [path.name for path in tmp_path.iterdir()] == ['config.json']


def test_folder_without_a_run(tmp_path):
    with pytest.raises(ConfigError, match="a run's folder"):
        moe.load(tmp_path)


def test_plugin_of_a_run_is_named_again_to_be_imported(tmp_path):
    plugin = tmp_path / 'plugin.py'
    mark = tmp_path / 'imported'
    plugin.write_text(f'import pathlib\npathlib.Path({str(mark)!r}).touch()\n')
    folder = tmp_path / 'run'
    folder.mkdir()
    plain = {**tiny.plain(), 'plugins': [str(plugin)]}
    write_plain_config(folder, plain)
    with pytest.raises(ConfigError, match='named again'):
        moe.load(folder)
    assert not mark.exists()


def test_a_language_model_predicts_for_no_table(folder):
    run = moe.load(folder)
    for wrong in (lambda: run.predict('x.csv'), lambda: run.read_inputs('x')):
        with pytest.raises(ConfigError, match='the folder of a run on a table'):
            wrong()

"""Whole runs: what they leave, how they go on, and what they refuse."""

import contextlib
import io
import json
import math
import pathlib
import re
import shutil
import signal
import subprocess
import sys
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import training
from moe.config import ConfigError, Damaged
from moe.layers import LOSSES
from moe.metrics import read_metrics
from moe.training import step
from moe.training.checkpoint import restore_run
from moe.workloads.lm.model import LM
from moe.workloads.registry import plain_of
from tests import tiny
from tests.training import damage
from tests.training.written import contents, lines

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
MODEL_PARTS = ('embedding', 'attention', 'router', 'experts', 'head', 'other')
STATISTICS = ('load', 'load_max', 'load_min', 'load_cv', 'max_violation')
STATISTICS += ('entropy', 'confidence', 'dropped', 'dead_experts')
STATISTICS += ('experts_per_token', 'logit_rms')


class Finished(NamedTuple):
    """A run from its start to its end, on eight devices."""

    folder: pathlib.Path
    plain: dict
    compiled: list
    printed: str
    environment: dict


def start(folder, plain):
    """Runs, or goes on."""
    return training.run(tiny.check(plain), folder)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    base = tmp_path_factory.mktemp('runs')
    plain = tiny.plain(
        {
            'data.source.files': tiny.write_corpus(base / 'corpus'),
            'steps': 40,
            'log_every': 8,
            'eval_every': 20,
            'checkpoint_every': 10,
            'optimizer.learning_rate': 0.01,
        }
    )
    printed, handlers = io.StringIO(), signal.getsignal(signal.SIGTERM)
    with (
        tiny.kept_programs(base / 'programs') as environment,
        tiny.compilations() as compiled,
        contextlib.redirect_stdout(printed),
    ):
        assert start(base / 'run', plain)
        assert signal.getsignal(signal.SIGTERM) == handlers
        yield Finished(
            base / 'run', plain, [*compiled], printed.getvalue(), environment
        )


def params(folder, plain):
    return restore_run(tiny.check(plain), folder).params


def checkpoints(folder):
    names = [path.name for path in (folder / 'checkpoints').iterdir()]
    return sorted(int(name) for name in names if name.isdecimal())


def cut(finished, folder, step):
    """A copy of the run as if it had been killed some time after a step."""
    shutil.copytree(finished.folder, folder)
    for later in checkpoints(folder):
        if later > step:
            shutil.rmtree(folder / 'checkpoints' / str(later))
    for name in ('sample.txt', 'routing.npz'):
        (folder / name).unlink()
    return folder


def test_files(finished):
    assert {p.name for p in finished.folder.iterdir()} == {
        'config.json',
        'data.json',
        'metrics.jsonl',
        'history.jsonl',
        'tensorboard',
        'checkpoints',
        'sample.txt',
        'routing.npz',
    }
    folder = finished.folder
    written = json.loads((folder / 'config.json').read_text())
    resolved = json.loads(json.dumps(plain_of(tiny.check(finished.plain))))
    assert written == {'format': 2, **resolved}
    corpus = json.loads((folder / 'data.json').read_text())
    # Four files of 400 bytes, one of them for validation.
    assert corpus.pop('fingerprint')
    assert corpus == {
        'files': 4,
        'train_bytes': 3 * 400 + 2,
        'val_bytes': 400,
    }
    assert checkpoints(folder) == [10, 20, 30, 40]
    sample = (folder / 'sample.txt').read_text()
    assert sample.startswith('def ')
    assert len(sample) == len('def ') + 4


def test_metrics(finished):
    # Every 8th step, the first, and every evaluation.
    metrics = read_metrics(finished.folder / 'metrics.jsonl')
    assert [m['step'] for m in metrics] == [1, 8, 16, 20, 24, 32, 40]
    train = ('loss', 'objective', *LOSSES)
    train += ('grad_norm', 'learning_rate', 'skipped', 'skipped_in_a_row')
    train += tuple(f'grad_norm/{part}' for part in MODEL_PARTS)
    train += ('param_norm', *(f'param_norm/{part}' for part in MODEL_PARTS))
    layers = {f'moe/layer_{i}/{n}' for i in (0, 1) for n in STATISTICS}
    names = {'step', *(f'train/{n}' for n in train)}
    names |= layers
    evaluation = {f'eval/{n}' for n in ('loss', 'bits_per_byte', *layers)}
    for line in metrics:
        extra = evaluation if line['step'] % 20 == 0 else set()
        # The first step is compiled; the speed is that of others.
        first = line['step'] == 1
        assert line.pop('train/tokens_per_second', first) > 0
        assert line.pop('cost/model_tflops', first) > 0
        assert 0 <= line.pop('cost/data_wait', 0) <= 1
        assert line.pop('cost/tokens_seen') == line['step'] * 8 * 16
        parts = MODEL_PARTS if first else ()
        flops = {f'cost/flops_per_token/{part}' for part in parts}
        flops -= {'cost/flops_per_token/embedding'}
        assert set(line) == names | extra | flops
        for layer in (0, 1):
            load = line[f'moe/layer_{layer}/load']
            assert len(load) == 4
            np.testing.assert_allclose(sum(load), 4, rtol=1e-6)
            assert line[f'moe/layer_{layer}/load_max'] == max(load)
            assert line[f'moe/layer_{layer}/dropped'] == 0
        extra = 0.01 * line['train/load_balance']
        extra += 0.001 * line['train/router_z']
        np.testing.assert_allclose(
            line['train/objective'] - line['train/loss'], extra, atol=2e-6
        )
    first, last = metrics[0]['train/loss'], metrics[-1]['train/loss']
    # Of 256 bytes at first any, log(256) = 5.5; then the corpus's twenty.
    assert first > 5
    assert last < 3.5
    bits = metrics[-1]['eval/loss'] / math.log(2)
    np.testing.assert_allclose(metrics[-1]['eval/bits_per_byte'], bits)


def test_progress_is_printed(finished):
    printed = finished.printed.splitlines()
    assert '16,592 parameters, 9,424 active a token' in printed[0]
    assert '1,202 train bytes, 400 val bytes; 8 cpu device(s)' in printed[0]
    steps = [line for line in printed if line.startswith('step ')]
    assert len(steps) == 7
    assert steps[-1].startswith('step 40/40  loss ')
    assert '  validation bits/byte ' in steps[-1]


def test_nothing_is_compiled_after_the_first_step(finished):
    for name in ('train_step', 'eval_step'):
        assert finished.compiled.count(name) == 1


def test_evaluation_is_the_mean_over_the_whole_text(finished):
    # 400 bytes have 399 targets; 24 windows of 16 and one of 15.
    config = tiny.check(finished.plain)
    text = config.data.source.load(16).val[:]
    assert len(text) == 400
    tokens = np.zeros((25, 17), np.int32)
    for row in range(25):
        window = text[16 * row : 16 * row + 17]
        tokens[row, : len(window)] = window
    variables = {'params': params(finished.folder, finished.plain)}
    apply = jax.jit(lambda t: LM(config.model).apply(variables, t)[0])
    logits = np.float64(apply(jnp.asarray(tokens[:, :-1])))
    losses = []
    for target in range(1, 400):
        row, column = divmod(target - 1, 16)
        powers = np.exp(logits[row, column] - np.max(logits[row, column]))
        losses.append(-np.log(powers[text[target]] / np.sum(powers)))
    last = read_metrics(finished.folder / 'metrics.jsonl')[-1]
    np.testing.assert_allclose(last['eval/loss'], np.mean(losses), rtol=1e-6)


def test_routing_of_a_piece_of_text(finished):
    config = tiny.check(finished.plain)
    with np.load(finished.folder / 'routing.npz') as saved:
        texts, expert = saved['texts'], saved['expert']
    # All whole sequences of 16 within the 400 bytes, of two layers; two choices
    # each.
    assert expert.shape == (2, 2, len(texts)) == (2, 2, 400)
    text = config.data.source.load(16).val[:].tobytes().decode()
    assert ''.join(texts) in text
    assert set(np.unique(expert)) <= set(range(4))
    assert len(np.unique(expert[:, 0])) > 1
    assert np.all(expert[:, 0] != expert[:, 1])


@pytest.mark.parametrize('step', [pytest.param(10, marks=pytest.mark.long), 30])
def test_goes_on_bit_for_bit(finished, tmp_path, step, capfd):
    # Killed after the last step, whose checkpoint then has a flipped bit, while
    # a line of metrics was being written.
    folder = cut(finished, tmp_path / 'run', step)
    last = folder / 'checkpoints' / '40'
    shutil.copytree(finished.folder / 'checkpoints' / '40', last)
    damage.flip_a_value(last)
    metrics = folder / 'metrics.jsonl'
    metrics.write_text(metrics.read_text() + '{"step": 41, "trai')
    # And before some fields existed, which have their defaults now.
    earlier = json.loads((folder / 'config.json').read_text())
    del earlier['plugins'], earlier['model']['norm_epsilon']
    (folder / 'config.json').write_text(json.dumps(earlier))
    with tiny.compilations() as compiled:
        assert start(folder, finished.plain)
    assert compiled.count('train_step') == 1
    told = (
        f'{last} is damaged: leaf [^\n]+; set aside as checkpoints/damaged-40\n'
    )
    assert re.fullmatch(told, capfd.readouterr().err)
    chex.assert_trees_all_equal(
        params(folder, finished.plain), params(finished.folder, finished.plain)
    )
    assert lines(folder) == lines(finished.folder)
    assert checkpoints(folder) == checkpoints(finished.folder)
    for name in ('sample.txt', 'config.json', 'data.json'):
        desired = (finished.folder / name).read_bytes()
        assert (folder / name).read_bytes() == desired


def test_a_finished_run_has_nothing_to_do(finished, tmp_path):
    folder = tmp_path / 'run'
    shutil.copytree(finished.folder, folder)
    with tiny.compilations() as compiled:
        assert start(folder, finished.plain)
    assert 'train_step' not in compiled
    strip = lambda files: {
        k: v for k, v in files.items() if not k.startswith('tensorboard')
    }
    assert strip(contents(folder)) == strip(contents(finished.folder))


def test_nothing_is_touched_if_no_checkpoint_is_good(finished, tmp_path):
    folder = cut(finished, tmp_path / 'run', 10)
    damage.flip_a_value(folder / 'checkpoints' / '10')
    before = contents(folder)
    with pytest.raises(Damaged, match='10 is damaged: leaf '):
        start(folder, finished.plain)
    assert contents(folder) == before


@pytest.mark.long
def test_stops_at_a_signal_and_goes_on(finished, tmp_path):
    # The real thing: a process, SIGTERM, and the same command again.
    config = tiny.write_config(tmp_path / 'config.py', finished.plain)
    folder = tmp_path / 'run'
    command = [sys.executable, 'train.py', f'--config={config}']
    command += [f'--workdir={folder}']
    options = {'cwd': ROOT, 'env': finished.environment, 'text': True}
    with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as run:
        printed = []
        for line in run.stdout:
            printed.append(line)
            if line.startswith('step  1/40'):
                run.send_signal(signal.SIGTERM)
    assert run.returncode == 0, printed
    last = checkpoints(folder)[-1]
    assert 1 < last < 40
    assert (
        printed[-1] == f'stopped at step {last}; the same command resumes it\n'
    )
    assert not (folder / 'sample.txt').exists()
    again = subprocess.run(command, capture_output=True, **options)
    assert again.returncode == 0, again.stderr
    assert f'resuming from step {last}\n' in again.stdout
    page = folder / 'report' / 'index.html'
    assert again.stdout.splitlines()[-1] == f'report: {page}'
    assert page.exists()
    chex.assert_trees_all_equal(
        params(folder, finished.plain), params(finished.folder, finished.plain)
    )
    assert lines(folder) == lines(finished.folder)


def test_a_different_run_in_the_folder_is_refused(finished):
    before = contents(finished.folder)
    plain = json.loads(json.dumps(finished.plain))
    plain['model']['moe']['experts']['hidden'] = 32
    plain['seed'] = 1
    with pytest.raises(ConfigError) as caught:
        start(finished.folder, plain)
    message = str(caught.value)
    assert message.startswith(f"workdir = '{finished.folder}'"[:60])
    assert 'config.model.moe.experts.hidden: 16 there, 32 now' in message
    assert 'config.seed: 0 there, 1 now' in message
    assert 'd_model' not in message
    assert '\n' not in message
    assert contents(finished.folder) == before


def test_other_text_is_refused(finished, tmp_path):
    # The same files, of which one has changed since.
    files = pathlib.Path(finished.plain['data']['source']['files'])
    original = files.parent / '0.txt'
    text = original.read_text()
    before = contents(finished.folder)
    try:
        original.write_text(text[::-1])
        with pytest.raises(ConfigError, match=r'data\.fingerprint: '):
            start(finished.folder, finished.plain)
    finally:
        original.write_text(text)
    assert contents(finished.folder) == before


@pytest.mark.parametrize(
    ('changes', 'field', 'allowed'),
    [
        ({'data.batch_size': 12}, 'data.batch_size', 'a multiple of 8 devices'),
        ({'optimizer.accumulation': 2}, 'data.batch_size', 'x accumulation'),
        ({'mesh.data': 3}, 'mesh', 'number of devices (8)'),
        (
            # What is left for `data` is 2.
            {
                'mesh.expert': 4,
                'model.moe.communication': 'gather',
                'model.moe.num_groups': 4,
            },
            'model.moe.num_groups',
            'a multiple of the 8 devices',
        ),
        (
            {'data.seq_len': 1000},
            'data.source.files',
            'at least seq_len + 1 = 1001',
        ),
        (
            {'data.source.files': '/no/such/*'},
            'data.source.files',
            'there is no such file',
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_leaves_no_folder(
    finished, tmp_path, changes, field, allowed
):
    corpus = {'data.source.files': finished.plain['data']['source']['files']}
    with pytest.raises(ConfigError) as caught:
        start(tmp_path / 'run', tiny.plain({**corpus, **changes}))
    assert str(caught.value).startswith(f'config.{field} = ')
    assert allowed in str(caught.value)
    assert not (tmp_path / 'run').exists()


def test_divergence(finished, tmp_path, monkeypatch):
    # A step whose third loss is no number; every step is logged.
    def fake(config, workload):
        def step(state, tokens):
            loss = jnp.where(state.step == 2, jnp.nan, 1.0 + jnp.sum(tokens))
            return state._replace(step=state.step + 1), {'train/loss': loss}

        return step

    monkeypatch.setattr(step, 'make_train_step', fake)
    plain = {**finished.plain, 'log_every': 1}
    with pytest.raises(training.Diverged) as caught:
        start(tmp_path / 'run', plain)
    assert 'train/loss is nan at step 3' in str(caught.value)
    assert 'config.optimizer.learning_rate' in str(caught.value)
    assert '\n' not in str(caught.value)
    assert [m['step'] for m in lines(tmp_path / 'run')] == [1, 2, 3]
    # None was saved before: the first state is what to go on from.
    assert checkpoints(tmp_path / 'run') == [0]

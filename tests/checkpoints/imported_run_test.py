"""An imported model is an ordinary run, by the commands themselves."""

import json
import shutil

import numpy as np
import pytest

from launch import sweep
from moe import evaluate, sample
from moe.checkpoints.__main__ import main
from moe.checkpoints.hf.files import find_tensors, read_tensor
from tests.checkpoints.hf.goldens import FOLDER, imported
from tests.launch.planning import runs

pytestmark = pytest.mark.slow

WORDS = ['the', 'quick', 'brown', 'fox', 'jumps', 'over', 'it', 'and', 'runs']
CONFIG = """
import json

def get_config():
    with open('{run}/config.json') as file:
        model = json.load(file)['model']
    source = {{
        'name': 'text',
        'files': '{texts}',
        'val_fraction': 0.25,
        'tokenizer': '{run}/tokenizer.json',
    }}
    return {{
        'workload': 'lm',
        'model': model,
        'init_from': '{run}',
        'steps': 2,
        'data': {{'source': source, 'seq_len': 8, 'batch_size': 8}},
        'optimizer': {{'schedule': {{'warmup_steps': 1}}}},
        'sample_prompt': 'the fox',
        'sample_length': 3,
        'eval_every': 2,
    }}

def sweep():
    yield {{'optimizer.learning_rate': 1e-3}}
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """An imported Mixtral with a tokenizer of words, and a sweep from it.

    The sweep's only trial, `swept/trial`, is a run of `train.py`.
    """
    library = pytest.importorskip('tokenizers')
    folder = tmp_path_factory.mktemp('all')
    source = folder / 'published'
    shutil.copytree(FOLDER / 'mixtral', source)
    names = {word: i for i, word in enumerate(['[UNK]', *WORDS])}
    words = library.models.WordLevel(names, unk_token='[UNK]')
    tokenizer = library.Tokenizer(words)
    tokenizer.pre_tokenizer = library.pre_tokenizers.Whitespace()
    tokenizer.save(str(source / 'tokenizer.json'))
    run = folder / 'run'
    assert main(['', 'import', str(source), f'--workdir={run}']) == 0
    shutil.rmtree(source)
    rng = np.random.default_rng(0)
    (folder / 'a.txt').write_text(' '.join(rng.choice(WORDS, 400)))
    text = CONFIG.format(run=run, texts=folder / 'a.txt')
    (folder / 'config.py').write_text(text)
    flags = [f'--config={folder}/config.py', f'--workdir={folder}/swept']
    assert sweep.main(['launch.sweep', *flags]) == 0
    return folder


def test_it_samples_with_the_tokenizer_that_travels(folder, capsys):
    flags = ['--prompt=the quick', '--length=4', '--temperature=0']
    assert sample.main(['', f'--workdir={folder}/run', *flags]) == 0
    assert capsys.readouterr().out.startswith('the quick')


def test_it_is_evaluated_on_other_data(folder, capsys):
    flags = {
        'name': 'text',
        'files': str(folder / 'a.txt'),
        'val_fraction': 0.25,
        'tokenizer': str(folder / 'run' / 'tokenizer.json'),
    }
    given = [f'--config.data.source.{n}={v}' for n, v in flags.items()]
    given.append('--config.data.seq_len=8')
    assert evaluate.main(['', f'--workdir={folder}/run', *given]) == 0
    assert 'loss' in capsys.readouterr().out


def test_it_trains_on_and_its_routing_is_reported(folder):
    history = (folder / 'swept' / 'trial' / 'history.jsonl').read_text()
    started = json.loads(history.splitlines()[0])['init_from']
    assert started['step'] == 0
    assert not started['new']
    assert (folder / 'swept' / 'trial' / 'report' / 'index.html').exists()
    with np.load(folder / 'swept' / 'trial' / 'routing.npz') as found:
        assert len(found['expert']) == 3  # layers


def test_what_it_became_is_exported(folder, tmp_path, capsys):
    target = f'--output={tmp_path / "out"}'
    assert main(['', 'export', str(folder / 'swept' / 'trial'), target]) == 0
    assert 'mixtral: 69 tensors of step 2' in capsys.readouterr().out
    theirs = find_tensors(FOLDER / 'mixtral')
    ours = find_tensors(tmp_path / 'out')
    assert {n: s[1:3] for n, s in theirs.items()} == {
        n: s[1:3] for n, s in ours.items()
    }
    name = 'model.norm.weight'
    before, after = read_tensor(theirs[name]), read_tensor(ours[name])
    assert 0 < np.abs(after - before).max() < 0.1
    assert (tmp_path / 'out' / 'tokenizer.json').exists()


@pytest.mark.long
@runs.needs_cuda
def test_a_run_from_it_is_planned(folder, tmp_path):
    config = f'--config={folder}/config.py'
    capacity = '--config.model.moe.capacity'
    # Widths of no tile are left to a loop without a capacity.
    flags = [f'{capacity}=factor', f'{capacity}.train=1.0']
    flags += ['--topology=h100:1x2', f'--json={tmp_path}/plan.json']
    done = runs.command(config, *flags)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / 'plan.json').read_text())
    values = sum(x.size for x in imported('mixtral').leaves.values())
    assert found['parameters']['total'] == values
    assert found['memory']['fits']
    assert found['step']['overlapped']['seconds'] > 0

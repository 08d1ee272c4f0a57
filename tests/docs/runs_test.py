"""The commands of the pages that train, run with models of the smallest size.

The tutorial runs in its own order. Of the how-to pages of the language model's
extension points one run has all plugins at once.
"""

import json
import re

import pytest

from tests import commands, tiny
from tests.docs import blocks, python_test

pytestmark = pytest.mark.slow

DOCS = blocks.ROOT / 'docs'
TUTORIAL = DOCS / 'tutorial' / 'first-experiment.md'
HOW_TO = DOCS / 'how-to'
# After what a page says, the size that is affordable. Later overrides win.
SIZES = (
    'steps=4',
    'log_every=1',
    'eval_every=4',
    'checkpoint_every=4',
    'optimizer.schedule.warmup_steps=2',
)
LM = (
    'model.d_model=16',
    'model.num_layers=1',
    'model.num_heads=2',
    'model.num_kv_heads=2',
    'model.moe.num_experts=4',
    'model.moe.experts.hidden=16',
    'data.seq_len=16',
    'data.batch_size=8',
    'sample_length=0',  # `moe.sample` is run by itself
)
TEXT = 'data.source.files=corpus/*.txt'
# Options of a plugin's page, by the plugin.
PLUGINS = {
    'add-a-router.md': 'near_best.py',
    'add-an-expert.md': 'sine.py',
    'add-a-dispatcher.md': 'every_expert.py',
    'add-a-data-source.md': 'letters.py',
    'add-an-optimizer.md': 'momentum.py',
    'add-a-schedule.md': 'halving.py',
    'add-a-metric.md': 'reciprocal_rank.py',
}


def flags(*changes):
    """The arguments that make changes to a config."""
    return [f'--config.{change}' for change in changes]


def run(lines, folder, tmp_path):
    """Runs lines of [module, arguments…] in order; returns the Results.

    They share the programs that they compile, the trials of sweeps too.
    """
    with tiny.kept_programs(folder / 'programs') as environment:
        results = commands.run_all(
            'tests.docs.server',
            [['run', *line] for line in lines],
            tmp_path,
            env=environment,
            cwd=folder,
            seconds=400,  # of a sweep, on a busy machine
        )
    for line, result in zip(lines, results, strict=True):
        assert result.code == 0, f'{line}\n{result.out}\n{result.err}'
    return results


def logged(folder):
    """The metrics of a run, a dictionary a line."""
    lines = (folder / 'metrics.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


def command(page, module):
    """The first command of a page that runs a module without an output."""
    return next(
        c
        for c in blocks.commands(page)
        if c.module == module and c.output is None
    )


@pytest.mark.usefixtures('own_registries')
def test_tutorial_and_notebook(folder, tmp_path_factory):
    tiny.write_corpus(folder / 'corpus')
    blocks.write_files(TUTORIAL, folder)
    # A pair of seeds is enough for a mean.
    sweep, seeds = folder / 'first_sweep.py', 'for seed in (0, 1):'
    assert seeds in sweep.read_text()
    fewer = seeds.replace(':', " if router == 'top_k' else (0,):")
    sweep.write_text(sweep.read_text().replace(seeds, fewer))
    lines = []
    for one in blocks.commands(TUTORIAL):
        if one.module and one.output is None:
            small = one.module in ('train', 'launch.sweep')
            more = flags(*SIZES, *LM, TEXT) if small else []
            length = ['--length=4'] if one.module == 'moe.sample' else []
            lines.append([one.module, *one.arguments, *more, *length])
    modules = [line[0] for line in lines]
    assert modules == [
        'train',
        'train',
        'moe.report',
        'launch.sweep',
        'launch.results',
        'moe.sample',
    ]
    results = run(lines, folder, tmp_path_factory.mktemp('outputs'))
    assert 'report: runs/top_k/report/index.html' in results[0].out
    table = results[4].out
    assert '| top_k ' in table
    assert 'moe/*/max_violation' in table
    assert ' std ' in table
    page = folder / 'runs/top_k/report/with-sigmoid.html'
    assert 'sigmoid' in page.read_text()
    assert results[5].out.startswith('class Parser:')
    python_test.run(TUTORIAL, folder)
    names = python_test.run(HOW_TO / 'notebook.md', folder)
    assert names['run'].step == 4
    assert names['logits'].shape == (1, 11, 256)
    assert len(names['loss'])


@pytest.fixture(scope='module')
def extended(tmp_path_factory):
    """A run with the plugins of all pages, and one sampled and swept."""
    folder = blocks.make_folder(tmp_path_factory.mktemp('extended'))
    overrides = []
    for page in PLUGINS:
        blocks.write_files(HOW_TO / page, folder)
        overrides += [
            argument
            for argument in command(HOW_TO / page, 'train').arguments
            if argument.startswith('--config.')
            and not argument.startswith('--config.plugins')
        ]
    plugins = ','.join(PLUGINS.values())
    more = [
        f'--config.plugins={plugins}',
        *overrides,
        *flags(*SIZES, *LM, 'sample_prompt=a'),
    ]
    lm = ['--config=configs/lm.py', *more]
    lines = [
        ['train', *lm, '--workdir=runs/all'],
        [
            'moe.sample',
            '--workdir=runs/all',
            f'--plugins={plugins}',
            '--prompt=the quick',
            '--length=4',
        ],
        ['moe.report', 'runs/all', f'--plugins={plugins}'],
    ]
    results = run(lines, folder, tmp_path_factory.mktemp('outputs'))
    return folder / 'runs' / 'all', results


def test_plugins_are_in_the_config(extended):
    config = json.loads((extended[0] / 'config.json').read_text())
    assert config['plugins'] == list(PLUGINS.values())
    moe = config['model']['moe']
    assert moe['router'] == {
        'name': 'near_best',
        'k': 4,
        'experts_per_token': 2.0,
        'rate': 0.01,
    }
    assert moe['experts'] == {'name': 'sine', 'hidden': 16, 'frequency': 1.0}
    assert moe['dispatcher']['name'] == 'every_expert'
    assert config['data']['source'] == {'name': 'letters', 'path': 'train.py'}
    assert config['optimizer']['name'] == 'momentum'
    assert config['optimizer']['momentum'] == 0.8
    assert config['optimizer']['schedule']['name'] == 'halving'
    assert [m['name'] for m in config['metrics']] == ['reciprocal_rank']


def test_plugins_are_logged(extended):
    lines = logged(extended[0])
    ratios = [line['moe/layer_0/state/ratio'] for line in lines]
    assert ratios[0] == 0.5
    assert len(set(ratios)) > 1
    for line in lines:
        assert 0 < line['train/impurity'] < 1
    assert 0 < lines[-1]['eval/reciprocal_rank'] <= 1
    # Two steps to the peak, and half of it every two steps.
    rates = [line['train/learning_rate'] for line in lines]
    peak = rates[1]
    expected = [peak / 2, peak, peak / 2, peak / 2]
    assert rates == pytest.approx(expected, rel=1e-5)


def test_plugins_are_in_the_report(extended):
    page = (extended[0] / 'report' / 'index.html').read_text()
    for name in ('state/ratio', 'impurity', 'reciprocal_rank', 'near_best'):
        assert name in page, name


def test_plugins_are_sampled(extended):
    sample = extended[1][1].out
    assert re.fullmatch(r'the quick[a-z ]{4}\n', sample)


@pytest.mark.long
def test_a_router_is_swept(extended, tmp_path):
    # That it is well-formed, `console_test` tells.
    page, folder = HOW_TO / 'add-a-router.md', extended[0].parents[1]
    (folder / 'corpus').exists() or tiny.write_corpus(folder / 'corpus')
    sweep = command(page, 'launch.sweep')
    more = flags('losses.impurity=0.1', *SIZES, *LM, TEXT)
    (result,) = run(
        [['launch.sweep', *sweep.arguments, *more]], folder, tmp_path
    )
    assert 'near_best' in result.out
    trial = folder / 'runs' / 'routers' / 'router=near_best'
    assert 'moe/layer_0/state/ratio' in logged(trial)[-1]


def test_task_balancing(folder, tmp_path_factory):
    page = HOW_TO / 'add-to-multitask.md'
    blocks.write_files(page, folder)
    more = flags(
        *SIZES, 'data.source.num_rows=400', 'data.source.num_val_rows=100'
    )
    line = ['train', *command(page, 'train').arguments, *more]
    run([line], folder, tmp_path_factory.mktemp('outputs'))
    run_folder = folder / 'runs' / 'geometric'
    config = json.loads((run_folder / 'config.json').read_text())
    assert config['balance']['name'] == 'geometric'
    assert len(logged(run_folder)) == 4


def test_a_table(folder, tmp_path_factory):
    page = HOW_TO / 'your-own-table.md'
    python_test.run(page, folder)
    train, predict = command(page, 'train'), command(page, 'moe.predict')
    lines = [
        ['train', *train.arguments, *flags(*SIZES)],
        ['moe.predict', *predict.arguments],
    ]
    run(lines, folder, tmp_path_factory.mktemp('outputs'))
    predictions = (folder / 'predictions.csv').read_text().splitlines()
    assert predictions[0] == 'row,click,purchase,spending'
    assert len(predictions) == 601

"""Results of a sweep, from folders made by hand."""

import json

import pytest

from launch import manifest, results
from launch.trials import read_sweep
from moe.config import ConfigError, Text
from tests.launch import sweeps

# By K and seed: the evaluation losses, the drops of two layers at the end, and
# whether it is done.
GIVEN = {
    (1, 0): ([3.0, 2.0], (0.25, 0.75), True),
    (1, 1): ([3.0, 4.0], (0.0, 0.0), True),
    (2, 0): ([3.0, 2.5], (0.0, 0.5), True),
    (2, 1): ([1.0], (0.0, 0.0), False),
    (4, 0): ([], None, False),
}
NAMES = {key: f'k={key[0]},seed={key[1]}' for key in GIVEN}


@pytest.fixture
def folder(tmp_path):
    trials = [{'model.moe.router.k': k, 'seed': s} for k, s in GIVEN]
    config = sweeps.write(tmp_path, sweeps.of_list(trials))
    sweep = read_sweep(config, {}, tmp_path / 'runs')
    manifest.write(tmp_path / 'runs', sweep)
    for trial, values in zip(sweep.trials, GIVEN.values(), strict=True):
        losses, dropped, done = values
        if not losses:
            continue
        lines = [{'step': 1, 'train/loss': 5.0, 'moe/layer_0/load': [1.0]}]
        for step, loss in zip((2, 3), losses, strict=False):
            lines.append({'step': step, 'train/loss': 4.0, 'eval/loss': loss})
        for layer, share in enumerate(dropped):
            lines[-1][f'moe/layer_{layer}/dropped'] = share
        trial.folder.mkdir()
        text = '\n'.join(map(json.dumps, lines))
        (trial.folder / 'metrics.jsonl').write_text(text + '\n{"step": 4, "tr')
        if done:
            (trial.folder / 'sample.txt').write_text('')
    return tmp_path / 'runs'


def test_a_sweep_from_before_a_field_existed(folder):
    # Its default is taken, as for a run.
    path = folder / 'sweep.json'
    described = json.loads(path.read_text())
    before = results.read(folder)
    for plain in [
        described['base'],
        *(trial['config'] for trial in described['trials'].values()),
    ]:
        del plain['optimizer']['accumulation'], plain['keep_checkpoints']
        del plain['model']['moe']['shared']
    path.write_text(json.dumps(described))
    assert results.read(folder) == before


@pytest.mark.parametrize(
    'text', ['', '[]', '{}', '{"trials": 3}', '{"trials": {"a": {}}}', '\0']
)
def test_a_damaged_description(folder, text):
    (folder / 'sweep.json').write_text(text)
    with pytest.raises(ConfigError, match=r'sweep\.json') as error:
        results.read(folder)
    assert len(str(error.value).splitlines()) == 1


def test_trials(folder):
    found, logged = results.read(folder)
    assert list(found['trials']) == list(NAMES.values())
    assert {n: t['step'] for n, t in found['trials'].items()} == {
        'k=1,seed=0': 3,
        'k=1,seed=1': 3,
        'k=2,seed=0': 3,
        'k=2,seed=1': 2,
        'k=4,seed=0': 0,
    }
    assert [t['done'] for t in found['trials'].values()] == [
        done for _, _, done in GIVEN.values()
    ]
    newest = [t['metrics']['eval/loss'] for t in found['trials'].values()]
    assert newest == [2.0, 4.0, 2.5, 1.0, None]
    assert found['trials']['k=2,seed=1']['values'] == {'k': 2, 'seed': 1}
    assert found['fields'] == {'model.moe.router.k': 'k', 'seed': 'seed'}
    assert [len(lines) for lines in logged.values()] == [3, 3, 3, 2]


def test_mean_and_spread_over_seeds(folder):
    # K = 1: mean 3, deviations -1 and 1: std = sqrt(2 / (2 - 1)). Of K = 2 one
    # trial is done: no spread; what is not done counts nowhere.
    found, _ = results.read(folder)
    assert [g['values'] for g in found['groups']] == [
        {'k': 1},
        {'k': 2},
    ]
    one, two = (group['metrics']['eval/loss'] for group in found['groups'])
    assert one == {'n': 2, 'mean': 3.0, 'std': pytest.approx(2**0.5)}
    assert two == {'n': 1, 'mean': 2.5, 'std': None}
    assert found['groups'][0]['trials'] == ['k=1,seed=0', 'k=1,seed=1']
    # The best trial is not of the best group; 1.0 is not done.
    assert (found['best'], found['best_group']) == ('k=1,seed=0', 1)
    assert found['better'] == 'lower'


def test_metrics_and_patterns(folder):
    # The mean over the layers: (.25 + .75) / 2.
    found, _ = results.read(folder, ['moe/*/dropped', 'eval/loss'])
    shares = [t['metrics']['moe/*/dropped'] for t in found['trials'].values()]
    assert shares == [0.5, 0.0, 0.25, 0.0, None]
    assert found['best'] == 'k=1,seed=1'
    spread = found['groups'][0]['metrics']['moe/*/dropped']
    # Mean .25, deviations .25 each: sqrt(2 * .0625 / 1).
    assert spread == {'n': 2, 'mean': 0.25, 'std': pytest.approx(0.125**0.5)}
    with pytest.raises(ConfigError, match=r'eval/los.: must be one'):
        results.read(folder, ['eval/los'])
    with pytest.raises(ConfigError, match='must be one of'):
        results.read(folder, ['moe/layer_0/load'])


def test_table(folder):
    found, _ = results.read(folder)
    lines = [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in results.table(found).splitlines()
        if line.startswith('|') and '---' not in line
    ]
    assert lines == [
        ['k', 'seed', 'step', 'eval/loss', ''],
        ['1', '0', '3/3', '2', 'best'],
        ['1', '1', '3/3', '4', ''],
        ['2', '0', '3/3', '2.5', ''],
        ['2', '1', '2/3', '1', ''],
        ['4', '0', '0/3', '-', ''],
        ['k', 'n', 'eval/loss', 'std', ''],
        ['1', '2', '3', '1.414', ''],
        ['2', '1', '2.5', '-', 'best'],
    ]
    widths = {len(line) for line in results.table(found).splitlines()[:7]}
    assert len(widths) == 1


def test_different_data(folder):
    # Of two trials; the others have no description yet.
    for name, fingerprint in (((1, 0), '1f'), ((2, 0), '2e')):
        described = json.dumps({'fingerprint': fingerprint})
        (folder / NAMES[name] / 'data.json').write_text(described)
    found, _ = results.read(folder)
    last = results.table(found).splitlines()[-1]
    assert last == (
        'These runs are on different data, or on other splits: '
        'k=1,seed=0 on 1f; k=2,seed=0 on 2e.'
    )
    assert 'note' in found


def test_command(folder, capsys):
    # The same again, on paper.
    assert results.main(['results', str(folder)]) == 0
    out, err = capsys.readouterr()
    found, _ = results.read(folder)
    page = folder / 'results.html'
    assert out == f'{results.table(found)}\npage: {page}\n'
    assert err == ''
    assert json.loads((folder / 'results.json').read_text()) == found
    assert '3 of 5 trials are done' in page.read_text()
    # Flags may come before the folder.
    assert results.main(['results', '--metric=train/loss', str(folder)]) == 0
    assert 'train/loss: lower is better' in capsys.readouterr().out


def test_nothing_has_begun(folder, capsys):
    for path in folder.iterdir():
        if path.is_dir():
            path.rename(folder.parent / path.name)
    assert results.main(['results', str(folder)]) == 0
    assert 'best' not in capsys.readouterr().out
    found = json.loads((folder / 'results.json').read_text())
    assert (found['best'], found['best_group'], found['groups']) == (
        None,
        None,
        [],
    )


def test_diverged(folder):
    # No number is never best.
    path = folder / NAMES[1, 0] / 'metrics.jsonl'
    path.write_text('{"step": 3, "eval/loss": NaN}\n')
    found, _ = results.read(folder)
    assert found['trials']['k=1,seed=0']['metrics'] == {'eval/loss': None}
    assert found['best'] == 'k=2,seed=0'
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ('config', 'metric', 'last_file'),
    [
        ('vision', 'eval/accuracy', 'confusion.json'),
        ('multitask', 'eval/task_0/auc', 'results.json'),
    ],
)
def test_higher_is_better(tmp_path, config, metric, last_file):
    # The workload says which metrics those are.
    file = tmp_path / 'config.py'
    file.write_text(
        f'from configs import {config}\n'
        f'get_config = {config}.get_config\n'
        "def sweep():\n    yield from ({'seed': s} for s in (0, 1))\n"
    )
    sweep = read_sweep(str(file), {}, tmp_path / 'runs')
    manifest.write(tmp_path / 'runs', sweep)
    for trial, value in zip(sweep.trials, (0.5, 0.75), strict=True):
        trial.folder.mkdir()
        line = {'step': trial.plain['steps'], metric: value}
        line['eval/loss'] = value
        (trial.folder / 'metrics.jsonl').write_text(json.dumps(line))
        (trial.folder / last_file).write_text('')
    read = lambda metric: results.read(tmp_path / 'runs', [metric])[0]
    assert read(metric)['better'] == 'higher'
    assert read(metric)['best'] == 'seed=1'
    assert read('eval/loss')['best'] == 'seed=0'
    (group,) = read(metric)['groups']
    assert group['values'] == {}
    assert group['metrics'][metric]['mean'] == 0.625


def test_sweep_with_overrides_of_the_command_line(tmp_path):
    # They are kept as they were typed.
    config = sweeps.write(tmp_path, sweeps.of_list([{'seed': 0}]))
    overrides = {'steps': Text('4')}
    sweep = read_sweep(config, overrides, tmp_path / 'runs')
    manifest.write(tmp_path / 'runs', sweep)
    (trial,) = results.read(tmp_path / 'runs')[0]['trials'].values()
    assert trial['steps'] == 4


def test_plugins_of_trials_are_imported_if_named_again(folder, capsys):
    plugin = folder.parent / 'plugin.py'
    mark = folder.parent / 'imported'
    plugin.write_text(f'import pathlib\npathlib.Path({str(mark)!r}).touch()\n')
    path = folder / 'sweep.json'
    found = json.loads(path.read_text())
    for trial in found['trials'].values():
        trial['config']['plugins'] = [str(plugin)]
    path.write_text(json.dumps(found))
    assert results.main(['results', str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f'--plugins={plugin}' in line
    assert not mark.exists()
    assert results.main(['results', str(folder), f'--plugins={plugin}']) == 0
    assert mark.exists()


@pytest.mark.parametrize(
    ('arguments', 'line'),
    [
        ([], "DIR = '': must be one sweep's folder"),
        (['a', 'b'], "DIR = 'a b': must be one sweep's folder"),
        (['no/such'], "workdir = 'no/such': must be a sweep's folder"),
        (['a', '--metrc=x'], '--metrc'),
    ],
)
def test_wrong_command_lines(capsys, arguments, line):
    assert results.main(['results', *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ''
    assert len(err.splitlines()) == 1
    assert err.startswith('launch.results: ')
    assert line in err

"""The command that predicts, on the folder of a small run on a table."""

import csv
import io
import re
import shutil

import jax
import numpy as np
import pytest

import moe
from moe import training
from moe.config import ConfigError
from moe.training.checkpoint import restore_run
from moe.training.folder import write_plain_config
from moe.workloads import registry
from moe.workloads.multitask.data import rows
from moe.workloads.multitask.data.tables import apply_table, read_preprocessing
from tests import commands, table_run, tiny

pytestmark = pytest.mark.slow

# Another order of columns, without labels or users, and a city that nobody
# lived in.
FEATURES = ('city', 'device', 'pay', 'age')
OTHERS = table_run.rows(37, seed=1, cities=('Rome', 'Lima', 'Atlantis'))
HEADER = ['row', 'click', 'bought', 'colour']
HEADER += [f'colour:{name}' for name in ('blue', 'green', 'red')] + ['spend']


def bad_row(**values):
    """The table with one more row, on line 39 of the file."""
    return [*OTHERS, {**OTHERS[0], **values}]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A finished run, validated on the very rows that it trained on."""
    folder = tmp_path_factory.mktemp('run')
    table = table_run.write(folder / 'table.csv', table_run.rows(60))
    changes = {
        'data.source.val_files': str(table),
        'data.source.val_fraction': 0.0,
        'data.source.test_fraction': 0.0,
        'balance.name': 'uncertainty',
    }
    plain = table_run.plain(table, **changes)
    assert training.run(tiny.check(plain), folder / 'run')
    write = lambda name, *given: table_run.write(folder / name, *given)
    write('new.csv.gz', OTHERS, FEATURES)
    write('narrow.csv', OTHERS, FEATURES[:-1])
    write('word.csv', bad_row(age='old'), FEATURES)
    write('bad.csv', bad_row(age='old')[-1:], FEATURES)
    write('headless.csv', OTHERS, FEATURES)
    text = (folder / 'headless.csv').read_text()
    (folder / 'headless.csv').write_text(text.split('\n', 1)[1])
    (folder / 'wide.csv').write_text(text + 'Rome,desk,1,2,3\n')
    begun = folder / 'begun'
    begun.mkdir()
    for name in ('config.json', 'preprocessing.json'):
        shutil.copy(folder / 'run' / name, begun)
    shutil.copytree(begun, folder / 'other')
    learned = (begun / 'preprocessing.json').read_text()
    changed = learned.replace('"indicators": true', '"indicators": false')
    (folder / 'other' / 'preprocessing.json').write_text(changed)
    shutil.copytree(begun, folder / 'damaged')
    (folder / 'damaged' / 'preprocessing.json').write_text('{"mean": [1')
    (folder / 'before').mkdir()
    shutil.copy(folder / 'run' / 'config.json', folder / 'before')
    (folder / 'text').mkdir()
    write_plain_config(folder / 'text', tiny.plain())
    (folder / 'broken').mkdir()
    (folder / 'broken' / 'config.json').write_text('{"task": "table"')
    return folder


# Arguments, in which {} is the folder of all files, and what the line holds.
# Those without a run are of the finished one.
WRONG = {
    'no run': (['--workdir={}/no'], ['workdir', '/no', "a run's folder"]),
    'no folder': (['--workdir='], ['workdir', "a run's folder"]),
    'another kind': (['--workdir={}/text'], ['workdir', 'a run on a table']),
    'broken': (['--workdir={}/broken'], ['config.json', 'whole']),
    'damaged': (['--workdir={}/damaged'], ['preprocessing.json', 'learned']),
    'of another table': (
        ['--workdir={}/other'],
        ['preprocessing.json', "the run's own data.source.schema"],
    ),
    'output is input': (
        ['--output={}/new.csv.gz'],
        ['--output', 'no file of the input'],
    ),
    'before it began': (['--workdir={}/before'], ['workdir', 'has begun']),
    'no checkpoint': (['--workdir={}/begun'], ['workdir', 'with a checkpoint']),
    'no input': (['--input='], ['--input', 'a path or a glob']),
    'no such input': (['--input={}/no*.csv'], ['/no*.csv', 'no such file']),
    'narrow': (['--input={}/narrow.csv'], ['narrow.csv', "with 'age' once"]),
    'word': (['--input={}/word.csv'], ['word.csv:39: age', "'old'", 'finite']),
    'wide': (['--input={}/wide.csv'], ['wide.csv:39', '4 columns']),
    'too few names': (
        ['--input={}/headless.csv', '--columns=city,device,pay'],
        ['headless.csv', "with 'age' once"],
    ),
    'nothing but bad rows': (
        ['--input={}/bad.csv', '--on_error=skip'],
        ['--input', 'bad.csv', '(1 left out)'],
    ),
    'no folder for output': (['--output={}/no/such.csv'], ['/no/such.csv']),
    'unknown flag': (['--ouput=x'], ['--ouput', 'nearest: --output']),
    'stray': (['{}/new.csv.gz'], ['absent']),
    'on error': (['--on_error=stop'], ['on_error', 'stop', 'raise|skip']),
}
GOOD = {
    'same': ['--input={}/table.csv', '--output={}/same.csv'],
    'new': ['--input={}/new.csv.gz'],
    'headless': ['--input={}/headless.csv', '--columns=city,device,pay,age'],
    'skipped': ['--input={}/w*.csv', '--on_error=skip'],
}


@pytest.fixture(scope='module')
def results(folder, tmp_path_factory):
    """What came of every command line."""
    given = {name: arguments for name, (arguments, _) in WRONG.items()} | GOOD
    usual = [f'--workdir={folder}/run', f'--input={folder}/new.csv.gz']
    lines = []
    for name, arguments in given.items():
        own = [argument.format(folder) for argument in arguments]
        output = [f'--output={folder}/wrong.csv'] * (name in WRONG)
        lines.append([*usual, *output, *own])
    output = tmp_path_factory.mktemp('output')
    with tiny.kept_programs(tmp_path_factory.mktemp('programs')) as env:
        found = commands.run_all('moe.predict', lines, output, env)
    return dict(zip(given, found, strict=True))


@pytest.mark.parametrize('name', WRONG)
def test_wrong_command_lines(results, folder, name):
    code, out, err = results[name]
    assert (code, out) == (2, ''), err
    (line,) = err.splitlines()
    assert line.startswith('moe.predict: ')
    for word in WRONG[name][1]:
        assert word in line
    assert not (folder / 'wrong.csv').exists()


def logits_of(folder, batches):
    """What the newest parameters make of some rows, float64 [N, T, O]."""
    config = registry.read_run(folder / 'run')
    workload = config.make_workload()
    workload.load_assets(folder / 'run')
    state = restore_run(config, folder / 'run')
    apply = jax.jit(workload.model.apply)
    found = [(apply(state.variables, b)[0], b['valid']) for b in batches]
    return np.float64(np.concatenate([f[b] for f, b in found]))


def check(text, logits):
    """Whether a written table holds the predictions of the logits."""
    header, *lines = csv.reader(io.StringIO(text))
    assert header == HEADER
    assert len(lines) == len(logits)
    for i, (line, z) in enumerate(zip(lines, logits, strict=True)):
        cells = dict(zip(header, line, strict=True))
        assert cells.pop('row') == str(i + 1)
        chance = np.exp(z[2]) / np.sum(np.exp(z[2]))
        desired = {
            'click': 1 / (1 + np.exp(-z[0, 0])),
            'bought': 1 / (1 + np.exp(-z[1, 0])),
            'colour:blue': chance[0],
            'colour:green': chance[1],
            'colour:red': chance[2],
            'spend': z[3, 0],
        }
        best = ['blue', 'green', 'red'][np.argmax(chance)]
        assert cells.pop('colour') == best
        for name, value in cells.items():
            np.testing.assert_allclose(
                float(value), desired[name], rtol=0, atol=1e-6
            )


def test_predicts_what_the_evaluation_does(results, folder):
    assert results['same'] == (0, '', '')
    config = registry.read_run(folder / 'run')
    workload = config.make_workload()
    batches = list(workload.eval_batches(workload.load_data(), 0, 1))
    assert len(batches) == 4  # 60 rows by 16, the last padded
    logits = logits_of(folder, batches)
    # Rows differ, and so do tasks.
    assert np.std(logits[:, 0, 0]) > 1e-3
    check((folder / 'same.csv').read_text(), logits)


def test_new_tables(results, folder):
    code, out, err = results['new']
    assert (code, err) == (0, '')
    learned = read_preprocessing(folder / 'run')
    table, _ = apply_table(learned, str(folder / 'new.csv.gz'))
    # The unknown city is id 0, and there is one.
    desired = [row['city'] == 'Atlantis' for row in OTHERS]
    assert any(desired)
    np.testing.assert_array_equal(table['categorical'][:, 0] == 0, desired)
    check(out, logits_of(folder, rows.val_batches(table, 16)))
    # The same rows without a header.
    assert results['headless'] == results['new']


def test_run_opened_in_python_predicts_what_the_command_does(results, folder):
    run = moe.load(folder / 'run')
    found = run.predict(str(folder / 'new.csv.gz'))
    header, *lines = csv.reader(io.StringIO(results['new'].out))
    assert list(found) == header
    columns = zip(*found.values(), strict=True)
    shown = [[str(cell) for cell in line] for line in columns]
    assert shown == lines
    with pytest.raises(ConfigError, match=r'files = .*\(1 left out\)'):
        run.predict(str(folder / 'bad.csv'), on_error='skip')


@pytest.mark.parametrize('age', ['1e15', '-1e15', '1e30', '3e38'])
def test_numbers_far_from_all_others(folder, age):
    # Predictions are finite, or the row is refused with its place.
    run = moe.load(folder / 'run')
    path = folder / f'far {age}.csv'
    table_run.write(path, bad_row(age=age), FEATURES)
    found = run.predict(str(path), on_error='skip')
    assert found['row'] in ([*range(1, 39)], [*range(1, 38)])
    for name in ('click', 'bought', 'spend', 'colour:red'):
        assert np.all(np.isfinite(found[name]))
    if len(found['row']) == 37:
        with pytest.raises(ConfigError, match=r'csv:39 = .* are finite'):
            run.predict(str(path))


def test_rows_left_out_are_counted(results):
    # wide.csv and word.csv have the 37 rows and one bad one each.
    code, out, err = results['skipped']
    assert code == 0, err
    places = re.findall(r'(\w+\.csv:\d+)', err)
    assert err.startswith('moe.predict: 2 lines left out: ')
    assert places == ['wide.csv:39', 'word.csv:39']
    # The numbers of the rows go on, and those left out have theirs.
    header, *lines = results['new'].out.splitlines()
    values = [line.split(',', 1)[1] for line in lines] * 2
    numbers = [*range(1, 38), *range(39, 76)]
    pairs = zip(numbers, values, strict=True)
    assert out.splitlines() == [header, *(f'{n},{v}' for n, v in pairs)]


def test_the_command_itself(tmp_path):
    result = commands.run('-m', 'moe.predict', f'--workdir={tmp_path}')
    line = f"moe.predict: workdir = '{tmp_path}': must be a run's folder\n"
    assert result == commands.Result(2, '', line)

"""A whole run on a table: its page, its test rows, and a second start."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from moe import training
from moe.metrics import read_metrics
from moe.training.checkpoint import restore_run
from moe.workloads import registry, reports
from moe.workloads.multitask.data.hashing import uniform
from moe.workloads.multitask.data.tables import read_preprocessing
from tests import table_run, tiny
from tests.reference import ranking as reference

pytestmark = pytest.mark.slow

COUNT = 240


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """The folder of a run with test rows, and its plain config."""
    folder = tmp_path_factory.mktemp('run')
    table = table_run.write(folder / 'table.csv', table_run.rows(COUNT))
    plain = table_run.plain(table)
    assert training.run(tiny.check(plain), folder / 'run')
    return folder / 'run', plain


def rows_of_the_test():
    """Rows of the test, as the split has it: the second 0.3 of a hash."""
    chance = uniform(np.arange(COUNT), 0)
    rows = table_run.rows(COUNT)
    return [r for r, c in zip(rows, chance, strict=True) if 0.3 <= c < 0.6]


def logits(folder):
    """What the finished run makes of them, float64 [N, T, O]."""
    config = registry.read_run(folder)
    workload = config.make_workload()
    data = workload.load_data()
    state = restore_run(config, folder)
    batches = list(workload.test_batches(data, 0, 1))
    apply = jax.jit(workload.model.apply)
    found = [apply(state.variables, b)[0] for b in batches]
    valid = np.concatenate([b['valid'] for b in batches])
    return np.float64(np.concatenate(found))[valid]


def test_results_on_the_test_rows(finished):
    folder, _ = finished
    rows = rows_of_the_test()
    z = logits(folder)
    assert len(rows) == len(z) > 50
    given = lambda name, classes: [
        (i, classes.index(row[name]), row['user'])
        for i, row in enumerate(rows)
        if row[name] in classes
    ]
    desired = {}
    binary = {
        'click': given('click', ['0', '1']),
        # Whoever did not click could not buy.
        'bought': [
            found
            for found in given('bought', ['0', '1'])
            if rows[found[0]]['click'] == '1'
        ],
    }
    for t, (name, found) in enumerate(binary.items()):
        index, label, user = zip(*found, strict=True)
        score = z[list(index), t, 0]
        chance = 1 / (1 + np.exp(-score))
        label = np.array(label)
        desired |= {
            f'{name}/auc': reference.auc(score, label),
            f'{name}/gauc': reference.gauc(score, label, user, False),
            f'{name}/log_loss': -np.mean(
                np.log(np.where(label, chance, 1 - chance))
            ),
            f'{name}/calibration': np.sum(chance) / np.sum(label),
        }
    index, label, _ = zip(
        *given('colour', ['blue', 'green', 'red']), strict=True
    )
    powers = np.exp(z[list(index), 2])
    chance = powers / np.sum(powers, axis=1, keepdims=True)
    desired['colour/accuracy'] = np.mean(np.argmax(chance, 1) == label)
    own = chance[np.arange(len(label)), label]
    desired['colour/log_loss'] = -np.mean(np.log(own))
    spent = [(i, r['spend']) for i, r in enumerate(rows)]
    spent = [(i, float(s)) for i, s in spent if s not in ('', '?')]
    index, label = zip(*spent, strict=True)
    desired['spend/mse'] = np.mean((z[list(index), 3, 0] - label) ** 2)
    losses = ('click/log_loss', 'bought/log_loss', 'colour/log_loss')
    desired['loss'] = sum(desired[name] for name in (*losses, 'spend/mse'))
    results = json.loads((folder / 'results.json').read_text())
    assert sorted(results) == sorted(desired)
    for name, value in desired.items():
        np.testing.assert_allclose(results[name], value, rtol=1e-5)


def test_metrics_and_page(finished):
    folder, _ = finished
    last = read_metrics(folder / 'metrics.jsonl')[-1]
    results = json.loads((folder / 'results.json').read_text())
    # The same of the validation rows, beside what the routers did.
    evaluated = {name for name in last if name.startswith('eval/')}
    routing = {name for name in evaluated if name.startswith('eval/moe/')}
    assert routing
    assert {f'eval/{name}' for name in results} == evaluated - routing
    assert 'test:\n  click: ' in reports.summary(folder)
    page = pathlib.Path(reports.write(folder)).read_text()
    for text in ('Results by task', 'On the test rows', 'gauc'):
        assert text in page
    assert f'{results["bought/gauc"]:.4f}' in page


def test_what_was_learned_is_kept(finished):
    folder, plain = finished
    first = tiny.check(plain).make_workload()
    learned = first.load_data().preprocessing
    restored = tiny.check(plain).make_workload()
    restored.load_assets(folder)
    assert read_preprocessing(folder) == learned
    assert restored.targets == first.targets
    assert [len(t.classes) for t in first.targets] == [0, 0, 3, 0]


def test_goes_on(finished, tmp_path):
    # The first half, and the second as another process would: by the config
    # as JSON has it, in every number the run in one go.
    folder, plain = finished
    half = {**plain, 'steps': 2}
    assert training.run(tiny.check(half), tmp_path)
    shutil.copy(folder / 'config.json', tmp_path)
    (tmp_path / 'results.json').unlink()
    assert training.run(tiny.check(plain), tmp_path)
    results = [
        json.loads((path / 'results.json').read_text())
        for path in (folder, tmp_path)
    ]
    assert results[0] == results[1]
    # A run that is finished is left as it is.
    assert training.run(tiny.check(plain), tmp_path)

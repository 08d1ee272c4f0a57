"""Trials as one program, against each by itself."""

import numpy as np
import pytest

from launch import manifest, results, vmapped
from launch.backends import local
from launch.trials import read_sweep
from moe.config import differences
from moe.metrics import read_metrics
from moe.training.checkpoint import restore_run
from moe.training.folder import read_plain_config
from moe.workloads import registry
from tests import commands, tiny
from tests.launch import sweeps
from tests.training.written import repeatable

pytestmark = pytest.mark.slow

GIVEN = [
    {'seed': 0, 'optimizer.learning_rate': 3e-3},
    {'seed': 1, 'optimizer.learning_rate': 1e-2, 'losses.load_balance': 0.5},
]


def write(folder, trials, changes=None):
    config = sweeps.write(folder, sweeps.of_list(trials), changes)
    sweep = read_sweep(config, {}, folder / 'runs')
    manifest.write(folder / 'runs', sweep)
    return sweep.trials


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Trials run together, and again each by its own command."""
    base = tmp_path_factory.mktemp('vmapped')
    trials = write(base, GIVEN, {'model.moe.dispatcher': 'grouped'})
    with tiny.kept_programs(base / 'programs') as environment:
        vmapped.run(trials)
        alone, lines = {}, []
        for trial in trials:
            alone[trial.name] = base / 'alone' / trial.name
            workdir = f'--workdir={alone[trial.name]}'
            lines.append([*trial.command[1:-1], workdir])
        environment['JAX_NUM_CPU_DEVICES'] = '1'
        for result in commands.run_all('train', lines, base, environment):
            assert result.code == 0, result
    return trials, alone


def test_values_equal_those_of_separate_runs(runs):
    trials, alone = runs
    for trial in trials:
        folder = alone[trial.name]
        found = read_metrics(trial.folder / 'metrics.jsonl')
        expected = read_metrics(folder / 'metrics.jsonl')
        assert len(found) == len(expected) == 3
        for line, other in zip(found, expected, strict=True):
            # The speed is of this machine: a line may come too early for it.
            names = set(repeatable(line))
            assert names == set(repeatable(other))
            for name in names:
                np.testing.assert_allclose(
                    line[name], other[name], rtol=2e-4, atol=2e-5, err_msg=name
                )


def test_costs_are_logged(runs):
    # The same ones as by itself; a step is 8 sequences of 16 tokens.
    trials, alone = runs
    for trial in trials:
        found = read_metrics(trial.folder / 'metrics.jsonl')
        first = read_metrics(alone[trial.name] / 'metrics.jsonl')[0]
        flops = {k: v for k, v in first.items() if 'flops_per' in k}
        assert flops
        assert flops.items() <= found[0].items()
        for line in found:
            assert line['cost/tokens_seen'] == 8 * 16 * line['step']
        assert 0 <= found[-1]['cost/data_wait'] <= 1
        assert found[-1]['cost/model_tflops'] > 0


def test_trials_differ(runs):
    # The test above would not see a seed or a rate that reaches nothing.
    trials, _ = runs
    lines = [read_metrics(t.folder / 'metrics.jsonl') for t in trials]
    for name in ('train/loss', 'eval/loss'):
        one, two = (line[-1][name] for line in lines)
        assert abs(one - two) > 1e-3
    one, two = (line[-1]['train/learning_rate'] for line in lines)
    assert two / one == pytest.approx(1e-2 / 3e-3)
    # Of the same loss, the coefficient: objective - loss - z-loss, over it.
    for line, weight in zip(lines, (0.01, 0.5), strict=True):
        last = line[-1]
        rest = last['train/objective'] - last['train/loss']
        balance = rest - 0.001 * last['train/router_z']
        expected = weight * last['train/load_balance']
        assert balance == pytest.approx(expected, abs=1e-5)


def test_folders(runs):
    # As a run of its own leaves them, results and samples included.
    trials, alone = runs
    (expected, _) = (
        {path.name for path in folder.iterdir()} for folder in alone.values()
    )
    for trial in trials:
        assert {path.name for path in trial.folder.iterdir()} == expected
        found = read_plain_config(trial.folder)
        assert not list(differences(found, trial.plain))
        assert trial.done()
        config = registry.read_run(trial.folder)
        assert restore_run(config, trial.folder).step == 3
    found, _ = results.read(trials[0].folder.parent)
    assert all(t['metrics']['eval/loss'] for t in found['trials'].values())


def test_what_goes_together(tmp_path):
    # Seeds and scalars do; not other shapes, and no loss that is 0 in one.
    trials = write(
        tmp_path,
        [
            {'seed': 0},
            {'seed': 1, 'optimizer.weight_decay': 0.0},
            {'seed': 1, 'losses.router_z': 0.5},
            {'seed': 0, 'losses.router_z': 0.0},
            {'seed': 0, 'model.moe.router.k': 1},
            {'seed': 1, 'model.moe.router.k': 1},
            {'seed': 0, 'mesh.fsdp': 2},
            {'seed': 1, 'mesh.fsdp': 2},
        ],
    )
    jobs = vmapped.group_trials(trials)
    members = [[t.name for t in getattr(job, 'members', [job])] for job in jobs]
    names = [trial.name for trial in trials]
    expected = [names[:3], names[3:4], names[4:6], names[6:7], names[7:]]
    assert members == expected
    assert vmapped.summary(jobs).startswith(
        'vmapped: 5 trials in 2 programs, 3 by themselves; only seed, '
    )
    line, *_ = local.dry_run(jobs, local.Options(), parallel=1, retries=0)
    group = jobs[0]
    assert group.folder == trials[0].folder
    assert group.command == (
        *('-m', 'launch.vmapped', str(tmp_path / 'runs')),
        *names[:3],
    )
    assert 'launch.vmapped' in line


def test_one_that_diverges_stops_alone(tmp_path, capsys):
    trials = write(
        tmp_path,
        [{'optimizer.learning_rate': rate} for rate in (1e-3, 1e30)],
        {'steps': 6, 'eval_every': 6, 'model.moe_every': 0},
    )
    vmapped.run(trials)
    fine, broken = trials
    assert fine.done()
    assert not broken.done()
    out = capsys.readouterr().out
    assert f'{broken.name}: train/loss is ' in out
    assert '3 updates in a row were left out' in out
    assert fine.step() == 6
    assert broken.step() < 6

"""The folder of a run as reports read it."""

import pytest

from moe.config import ConfigError
from moe.report import Run
from tests.report import runs


def test_metrics_are_columns(tmp_path):
    run = Run(runs.write(tmp_path / 'one'))
    assert run.steps == 4
    assert run.metrics['eval/loss'].steps.tolist() == [2, 4]
    assert run.metrics['eval/loss'].values.tolist() == [1.75, 1.5]
    assert run.last('eval/loss') == 1.5
    assert run.last('absent') is None
    assert run.config['note'] == 'x < y'


def test_matches_are_of_whole_names(tmp_path):
    run = Run(runs.write(tmp_path / 'one'))
    assert run.matches('eval/(.+)') == {
        'eval/loss': ('loss',),
        'eval/bits_per_byte': ('bits_per_byte',),
    }
    assert run.matches('eval/l') == {}


def test_statistics_are_by_place(tmp_path):
    # Layers in their order, the tenth after the second.
    line = {'step': 1, 'moe/layer_10/x': 1.0, 'moe/layer_2/x': 2.0}
    line |= {'moe/level_0.all/gate': [0.5], 'train/loss': 1.0}
    run = Run(runs.write(tmp_path / 'one', [line]))
    found = run.statistics()
    assert list(found['x']) == ['layer_2', 'layer_10']
    assert found['gate'] == {'level_0.all': 'moe/level_0.all/gate'}


@pytest.mark.parametrize('missing', ['config.json', 'metrics.jsonl'])
def test_folder_that_holds_no_run(tmp_path, missing):
    folder = runs.write(tmp_path / 'one')
    (folder / missing).unlink()
    with pytest.raises(ConfigError, match=missing):
        Run(folder)


def test_run_that_has_logged_nothing(tmp_path):
    with pytest.raises(ConfigError, match='logged a step'):
        Run(runs.write(tmp_path / 'one', []))

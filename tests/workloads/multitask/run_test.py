"""Whole runs of several tasks, from their configs to their pages."""

import json
import pathlib

import numpy as np
import pytest

from configs import multitask
from moe import training
from moe.config import ConfigError
from moe.metrics import read_metrics
from moe.training.folder import write_plain_config
from moe.workloads import reports
from moe.workloads.multitask.mixtures import MIXTURES
from tests import tiny
from tests.training.written import lines
from tests.workloads.multitask.workload_test import plain

pytestmark = pytest.mark.slow

# A gate for each task, levels of experts, none of either.
FAST = ('mmoe', 'ple', 'shared_bottom')
GATED = {'cgc', 'mmoe', 'omoe', 'ple'}


@pytest.mark.parametrize(
    'model',
    [
        pytest.param(name, marks=() if name in FAST else pytest.mark.long)
        for name in MIXTURES
    ],
)
def test_every_mixture_runs_to_its_page(tmp_path, model):
    config = plain(model)
    assert training.run(tiny.check(config), tmp_path)
    last = read_metrics(tmp_path / 'metrics.jsonl')[-1]
    total = last['eval/task_0/mse'] + last['eval/task_1/mse']
    np.testing.assert_allclose(last['eval/loss'], total, rtol=1e-6)
    total = last['train/loss/task_0'] + last['train/loss/task_1']
    np.testing.assert_allclose(last['train/loss'], total, rtol=1e-5)
    assert last['train/examples_per_second'] > 0
    if model in GATED:
        gates = [v for k, v in last.items() if k.endswith('/gate')]
        assert gates
        np.testing.assert_allclose([sum(g) for g in gates], 1, rtol=1e-5)
    assert 'task_1: ' in reports.summary(tmp_path)
    page = pathlib.Path(reports.write(tmp_path)).read_text()
    assert 'Results by task' in page
    assert json.loads((tmp_path / 'results.json').read_text()) == {}


def test_stops_and_goes_on(tmp_path):
    # Half of a run, and the rest of it: the numbers of one in one go.
    config = plain(**{'model.expert.batch_norm': {}})
    assert training.run(tiny.check(config), tmp_path / 'whole')
    half = {**config, 'steps': 2}
    assert training.run(tiny.check(half), tmp_path / 'parts')
    write_plain_config(tmp_path / 'parts', config)
    (tmp_path / 'parts' / 'results.json').unlink()
    assert training.run(tiny.check(config), tmp_path / 'parts')
    whole, parts = (lines(tmp_path / name)[-1] for name in ('whole', 'parts'))
    assert whole == parts


def test_unknown_variants():
    for variant in ('nothing', 'mmoe,nothing', 'mmoe,census,more'):
        with pytest.raises(ValueError, match=r'^MODEL,DATASET of cgc, '):
            multitask.get_config(variant)


def test_run_that_never_began(tmp_path):
    config = tiny.check(tiny.changed(multitask.get_config('mmoe,census'), {}))
    with pytest.raises(ConfigError, match='has begun'):
        config.make_workload().load_assets(tmp_path)

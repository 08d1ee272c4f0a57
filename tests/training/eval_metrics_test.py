"""Metrics of evaluation, and a run whose config names one of a plugin."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from moe import training
from moe.config import ConfigError
from moe.metrics import read_metrics
from moe.training.eval_metrics import is_higher_better, top_k_accuracy
from moe.training.workload import Mean, Predictions
from moe.workloads.registry import read_run
from tests import tiny
from tests.training.evaluation_test import Sums

LOGITS = jnp.array([[3.0, 2, 1], [1, 1, 0], [0, 5, 1], [9, 0, 0]])


@pytest.mark.parametrize(('k', 'right'), [(1, 1), (2, 2), (3, 3), (9, 3)])
def test_top_k_accuracy(k, right):
    # Labels first, second of two equal ones, third; the last is masked.
    labels = jnp.array([0, 1, 0, 0])
    mask = jnp.array([True, True, True, False])
    found = top_k_accuracy(Predictions(LOGITS, labels, mask), k=k)
    assert found == Mean(right, 3)


def test_numbers_have_no_accuracy():
    predictions = Predictions(LOGITS[:, :1], jnp.ones(4), jnp.ones(4, bool))
    assert top_k_accuracy(predictions) is None


def test_direction():
    workload = Sums()
    workload.higher_is_better = frozenset({'auc'})
    names = ('auc', 'click/auc', 'eval/loss', 'eval/top_k_accuracy')
    found = [is_higher_better(workload, name) for name in names]
    assert found == [True, True, False, True]


PLUGIN = """
import jax.numpy as jnp

from moe.training.eval_metrics import METRICS, higher_is_better
from moe.training.workload import Mean


@METRICS.register('within')
@higher_is_better
def within(predictions, *, distance: int = 8):
    guess = jnp.argmax(predictions.logits, axis=-1)
    near = jnp.abs(guess - predictions.labels) <= distance
    mask = predictions.mask
    return Mean(jnp.sum(near & mask), jnp.sum(mask))
"""


@pytest.mark.slow
def test_a_run_logs_the_metric_of_a_plugin(tmp_path):
    (tmp_path / 'plugin.py').write_text(PLUGIN)
    plugin = str(tmp_path / 'plugin.py')
    plain = tiny.plain(
        {
            'data.source.files': tiny.write_corpus(tmp_path / 'corpus'),
            'plugins': (plugin,),
            'metrics': ('top_k_accuracy', {'name': 'within', 'distance': 255}),
            'steps': 2,
            'model.num_layers': 1,
            'sample_length': 0,
            'optimizer.schedule': {'name': 'constant', 'warmup_steps': 0},
        }
    )
    config = tiny.check(plain)
    assert training.run(config, tmp_path / 'run')
    last = read_metrics(tmp_path / 'run' / 'metrics.jsonl')[-1]
    assert last['eval/within'] == 1
    assert 0 <= last['eval/top_k_accuracy'] < 1
    assert np.isfinite(last['eval/bits_per_byte'])
    # It is kept with its options, read back, and a sweep knows its direction.
    kept = json.loads((tmp_path / 'run' / 'config.json').read_text())
    assert kept['metrics'] == [
        {'name': 'top_k_accuracy', 'k': 1},
        {'name': 'within', 'distance': 255},
    ]
    again = read_run(tmp_path / 'run', [plugin])
    assert again.metrics[1].keywords == {'distance': 255}
    assert is_higher_better(config.make_workload(), 'eval/within')


@pytest.mark.parametrize(
    ('metrics', 'field', 'allowed'),
    [
        (('recall',), 'metrics[0].name', 'one of top_k_accuracy'),
        (2 * ('top_k_accuracy',), 'metrics', 'each of them once'),
    ],
)
def test_refused(metrics, field, allowed):
    with pytest.raises(ConfigError) as caught:
        tiny.parsed({'metrics': metrics})
    assert caught.value.field == f'config.{field}'
    assert allowed in caught.value.allowed

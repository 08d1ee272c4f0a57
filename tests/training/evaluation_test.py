"""The metrics of an evaluation, of all its batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.config import ConfigError
from moe.stats import routing_total
from moe.training.eval_metrics import METRICS
from moe.training.evaluation import (
    EvalBatch,
    evaluate,
    metrics_of,
    routing_of,
)
from moe.training.workload import (
    Mean,
    Outputs,
    Predictions,
    Workload,
    masked_means,
)


class Sums(Workload):
    """Predicts the sum of a batch, and keeps the rows."""

    units_per_step = 1
    final_file = 'end.txt'
    load_data = describe_data = train_batches = eval_batches = None
    init = finalize = None

    def forward(self, variables, batch, **options):
        assert options == {}
        means = {
            'loss': Mean(variables * jnp.sum(batch), len(batch)),
            'rare': Mean(0.0, 0.0),
        }
        part = Predictions(batch[:, None], batch, batch > 1)
        predictions = {'': Predictions(batch, batch, batch > 0), 'part': part}
        return Outputs(means, None, {}, predictions)

    def eval_rows(self, outputs, batch):
        return {'row': batch + outputs.means['loss'].count}

    def eval_metrics(self, means, rows):
        return {**means, 'median': float(np.median(rows['row']))}


def test_of_a_batch():
    means, rows, _ = evaluate(Sums(), (), 2.0, jnp.array([1.0, 2.0, 6.0]))
    assert means['loss'] == Mean(18.0, 3)
    np.testing.assert_array_equal(rows['row'], [4, 5, 9])


def test_of_all_batches():
    # Ratios of sums, not means of means; what has no data is absent.
    one = lambda batch: evaluate(Sums(), (), 1.0, jnp.array(batch))
    batches = [one([1.0, 2]), one([9.0])]
    assert metrics_of(Sums(), batches) == {'loss': 4.0, 'median': 4.0}


def test_sums_are_in_double_precision():
    one = {'loss': Mean(np.float32(1.0), np.float32(1.0))}
    big = {'loss': Mean(np.float32(2**24), np.float32(1.0))}
    batches = [EvalBatch(m, {'row': np.zeros(1)}) for m in (big, one)]
    assert metrics_of(Sums(), batches)['loss'] == (2**24 + 1) / 2


def test_registered_metrics(monkeypatch):
    # One that speaks of vectors only, of each task by itself.
    monkeypatch.setattr(METRICS, '_entries', {})

    @METRICS.register('total')
    def total(predictions, *, scale: float = 1.0):
        if predictions.logits.ndim == 1:
            return None
        return masked_means(predictions.mask, x=scale * predictions.labels)['x']

    twice = functools.partial(total, scale=2.0)
    means, *_ = evaluate(Sums(), (twice,), 1.0, jnp.array([1.0, 2.0, 6.0]))
    assert set(means) == {'loss', 'rare', 'part/total'}
    assert means['part/total'] == Mean(16.0, 2.0)


def test_a_name_that_is_taken(monkeypatch):
    monkeypatch.setattr(METRICS, '_entries', {})

    @METRICS.register('loss')
    def mine(predictions):
        return Mean(1.0, 1.0)

    with pytest.raises(ConfigError, match='own metric has this name'):
        evaluate(Sums(), (mine,), 1.0, jnp.array([1.0]))


def test_routing_over_all_batches():
    # Three experts, of one layer; the second batch has one valid token of two.
    draw = np.random.default_rng(0)
    probs = draw.dirichlet(np.ones(3), (2, 1, 2)).astype(np.float32)
    masks = np.array([[[True, True]], [[True, False]]])
    chosen = [[0, 2], [0, 1]]
    batches = []
    for p, mask, experts in zip(probs, masks, chosen, strict=True):
        counts = np.zeros((1, 3), np.float32)
        for valid, expert in zip(mask[0], experts, strict=True):
            counts[0, expert] += valid
        kept = np.float32(counts.sum() - (experts == [0, 1]))  # one is dropped
        total = routing_total(p, counts, kept, mask)
        total = jax.tree.map(lambda x: jnp.asarray(x)[None], total)
        batches.append(EvalBatch({}, {}, jax.device_get(total)))
    found = routing_of(Sums(), batches)
    assert found['moe/layer_0/load'] == [2.0, 0.0, 1.0]
    assert found['moe/layer_0/load_max'] == 2.0
    assert found['moe/layer_0/dead_experts'] == 1.0
    entropies = -np.sum(probs * np.log(probs), axis=-1)
    mean = np.mean(entropies[masks])
    np.testing.assert_allclose(found['moe/layer_0/entropy'], mean, rtol=1e-6)
    np.testing.assert_allclose(found['moe/layer_0/dropped'], 1 / 3, rtol=1e-6)
    assert routing_of(Sums(), [EvalBatch({}, {})]) == {}

"""A trained model of several tasks opened: logits, gates, no table."""

import jax
import numpy as np
import pytest

import moe
from moe import training
from moe.config import ConfigError
from tests import tiny
from tests.workloads.load_test import saved
from tests.workloads.multitask.workload_test import plain

pytestmark = pytest.mark.slow


def opened(folder, model):
    """A run of random parameters."""

    def make(config):
        state = jax.jit(lambda: training.init_state(config))()
        draw = np.random.default_rng(0)
        random = lambda x: np.float32(draw.standard_normal(x.shape))
        return state._replace(params=jax.tree.map(random, state.params))

    return moe.load(saved(folder, plain(model), make=make))


def batch(run, count=3):
    """Inputs of some examples, without labels."""
    features = run.config.data.source.num_features
    return {
        'numeric': tiny.numbers((count, features), 0),
        'categorical': np.zeros((count, 0), np.int32),
    }


@pytest.mark.parametrize('model', ['mmoe', 'ple'])
def test_gates_of_each_example(tmp_path, model):
    run = opened(tmp_path / 'run', model)
    inputs = batch(run)
    logits, aux = jax.jit(run.model.apply)(run.variables, inputs)
    np.testing.assert_allclose(run.logits(inputs), logits, rtol=1e-5)
    assert logits.shape[:2] == (3, 2)
    found = run.routing(inputs)
    # Their mean is the statistic of the batch, by the name in the metrics.
    stats = jax.device_get(aux.stats)
    means = run.workload.layer_metrics(stats)
    gates = {n: v for n, v in means.items() if n.endswith('/gate')}
    assert [f'moe/{gate.place}/gate' for gate in found] == list(gates)
    assert len(gates) >= 2
    for gate in found:
        assert len(gate.weight) == 3
        np.testing.assert_allclose(gate.weight.sum(axis=-1), 1, rtol=1e-5)
        np.testing.assert_allclose(
            gate.weight.mean(axis=0),
            gates[f'moe/{gate.place}/gate'],
            rtol=1e-4,
            atol=1e-6,
        )
        assert np.std(gate.weight, axis=0).max() > 1e-3
        np.testing.assert_array_equal(gate.chosen, gate.weight != 0)


def test_run_on_synthetic_data_predicts_for_no_table(tmp_path):
    run = opened(tmp_path / 'run', 'shared_bottom')
    with pytest.raises(ConfigError, match='a run on a table'):
        run.predict('x.csv')

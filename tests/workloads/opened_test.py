"""A checkpoint opened for evaluation: its facts, and how many batches."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from moe.config import ConfigError
from moe.training.workload import Outputs, masked_means
from moe.workloads.opened import open_run
from tests import tiny
from tests.workloads.load_test import saved

pytestmark = pytest.mark.slow


class Counting:
    """Counts the rows of each batch."""

    @staticmethod
    def forward(variables, batch):
        del variables
        _, mask = batch
        means = masked_means(mask, rows=jnp.ones(mask.shape))
        return Outputs(means, None, {}, {})

    @staticmethod
    def eval_rows(outputs, batch):
        del outputs, batch
        return {}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp('runs')
    corpus = tiny.write_corpus(base / 'corpus', files=2, size=800)
    config = tiny.plain({'data.source.files': corpus})
    return saved(base / 'run', config, (1, 2))


def test_facts_and_parameters(folder):
    opened = open_run(folder, 1, [('data.batch_size', 16)])
    facts = dict(opened.facts)
    assert facts.pop('data')['files'] == 2
    assert facts.pop('time')
    assert facts == {'step': 1, 'changes': {'data.batch_size': '16'}}
    newest = open_run(folder)
    assert newest.facts['step'] == 2
    np.testing.assert_array_equal(
        newest.variables['params']['head'],
        2 * opened.variables['params']['head'],
    )


def test_as_many_batches_as_are_asked_for(folder):
    opened = open_run(folder)
    count = len(list(opened.workload.eval_batches(opened.data, 0, 1)))
    assert count > 2
    for most, desired in ((None, count), (2, 2), (count + 1, count)):
        assert len(opened.evaluated(Counting, most)) == desired
    none = types.SimpleNamespace(eval_batches=lambda *given: iter(()))
    with pytest.raises(ConfigError, match='validation examples'):
        opened._replace(workload=none).evaluated(Counting)

"""A language model that is planned: its batches without a corpus."""

import numpy as np

from moe.workloads.planned import planning_of
from tests import tiny


def test_batch_is_the_one_that_training_yields(tmp_path):
    files = tiny.write_corpus(tmp_path / 'corpus')
    found = planning_of(tiny.parsed({'data.source.files': files}))
    data = found.workload.load_data()
    batch = next(found.workload.train_batches(data, 0, 1))
    assert found.batch.shape == np.shape(batch)
    assert found.batch.dtype == batch.dtype


def test_no_corpus_is_needed():
    found = planning_of(tiny.parsed({'data.source.files': 'no/such/*.txt'}))
    assert found.batch.shape == (8, 17)

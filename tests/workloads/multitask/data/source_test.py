"""Sources of rows: what a plugin's has to say, and what it is given."""

import dataclasses

import numpy as np
import pytest

from moe.workloads import registry
from moe.workloads.multitask.data import SOURCES, Data, Inputs, Source
from moe.workloads.multitask.targets import Binary

ROWS = {
    'numeric': np.arange(12, dtype=np.float32).reshape(6, 2),
    'label': np.ones((6, 1), np.float32),
    'mask': np.ones((6, 1), bool),
}


@pytest.fixture
def mine(monkeypatch):
    """A source of the user's own, registered for one test."""
    monkeypatch.setattr(SOURCES, '_entries', dict(SOURCES._entries))

    @SOURCES.register('mine')
    @dataclasses.dataclass(frozen=True)
    class Mine(Source):
        scale: float = 1.0

        @property
        def num_tasks(self):
            return 1

        def inputs(self):
            return Inputs((Binary('click'),), num_numeric=2)

        def load(self, batch_size):
            train = {**ROWS, 'numeric': self.scale * ROWS['numeric']}
            return Data(self.inputs(), train, ROWS, {}, 'abc')

    return Mine


def test_source_of_a_plugin(mine, tmp_path):
    section = {'name': 'mine', 'scale': 2.0}
    plain = {'workload': 'multitask', 'data': {'source': section}}
    source = registry.read_config(plain).data.source
    assert source == mine(2.0)
    data = source.load(4)
    batch = next(data.train_batches(4, seed=0))
    assert sorted(batch) == ['label', 'mask', 'numeric', 'valid']
    assert batch['numeric'].shape == (4, 2)
    assert data.sizes() == {
        'train_rows': 6,
        'val_rows': 6,
        'test_rows': 0,
        'fingerprint': 'abc',
    }
    # There is nothing to keep, and the model is known from the config.
    data.save(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert source.restore(tmp_path) == data.inputs


def test_hosts_share_a_batch(mine):
    data = mine().load(4)
    whole = next(data.train_batches(4, 3))
    for host in range(2):
        part = next(data.train_batches(4, 3, host, 2))
        for name, rows in part.items():
            np.testing.assert_array_equal(rows, whole[name][host::2])

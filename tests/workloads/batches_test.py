"""Batches of an endless stream, down to one example."""

import grain
import numpy as np
import pytest

from moe.workloads.batches import host_batches, iterated

STREAM = grain.MapDataset.range(7).repeat(None)


@pytest.mark.parametrize(
    ('size', 'num_hosts'), [(1, 1), (2, 1), (2, 2), (4, 2), (12, 1), (12, 4)]
)
def test_consecutive_examples(size, num_hosts):
    # The twelve first examples, dealt out to the hosts.
    hosts = [
        host_batches(STREAM, size, host, num_hosts) for host in range(num_hosts)
    ]
    for step in range(12 // size):
        whole = np.empty(size, int)
        for host, batches in enumerate(hosts):
            whole[host::num_hosts] = next(batches)
        desired = (step * size + np.arange(size)) % 7
        np.testing.assert_array_equal(whole, desired)
        assert all(h.get_state() == {'next_index': step + 1} for h in hosts)


def test_iterated():
    assert list(iterated(grain.MapDataset.range(3))) == [0, 1, 2]


def test_what_is_done_to_a_batch():
    batches = host_batches(STREAM, 2, 0, 1, finish=lambda batch: batch.sum())
    assert [next(batches) for _ in range(3)] == [0 + 1, 2 + 3, 4 + 5]


@pytest.mark.slow
def test_a_process_goes_on_from_a_state():
    batches = host_batches(STREAM, 1, 0, 1, workers=1)
    assert [int(next(batches)[0]) for _ in range(3)] == [0, 1, 2]
    assert batches.get_state() == {'next_index': 3}
    # What was made ahead is left out.
    batches.set_state({'next_index': 5})
    assert [int(next(batches)[0]) for _ in range(3)] == [5, 6, 0]
    assert batches.get_state() == {'next_index': 8}
    batches.close()

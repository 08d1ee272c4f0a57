"""Batches of rows: order, epochs, hosts, padding, state."""

import json

import numpy as np
import pytest

from moe.workloads.multitask.data import rows

DATA = {
    'numeric': np.arange(22, dtype=np.float32).reshape(11, 2),
    'user': np.arange(11, dtype=np.int32),
}


def batches(iterator, count):
    return [next(iterator) for _ in range(count)]


def test_every_epoch_has_all_rows_once():
    # Eleven batches of 4 are four epochs of 11.
    made = batches(rows.train_batches(DATA, 4, seed=0), 11)
    users = np.concatenate([b['user'] for b in made]).reshape(4, 11)
    for epoch in users:
        assert sorted(epoch) == list(range(11))
    assert len({tuple(epoch) for epoch in users}) == 4
    for batch in made:
        np.testing.assert_array_equal(
            batch['numeric'], DATA['numeric'][batch['user']]
        )
        assert batch['numeric'].dtype == np.float32
        assert batch['user'].dtype == np.int32
        assert batch['valid'].tolist() == [True] * 4


def test_seeds_have_other_orders():
    users = [
        next(rows.train_batches(DATA, 8, seed))['user'].tolist()
        for seed in (0, 1, 0)
    ]
    assert users[0] == users[2] != users[1]


@pytest.mark.parametrize('num_hosts', [2, 4])
def test_hosts_share_a_batch(num_hosts):
    whole = batches(rows.train_batches(DATA, 8, 3), 5)
    parts = [
        batches(rows.train_batches(DATA, 8, 3, host, num_hosts), 5)
        for host in range(num_hosts)
    ]
    for t, batch in enumerate(whole):
        for host, own in enumerate(parts):
            for name in batch:
                np.testing.assert_array_equal(
                    own[t][name], batch[name][host::num_hosts]
                )


def test_state_goes_on():
    iterator = rows.train_batches(DATA, 4, 0)
    batches(iterator, 3)
    state = json.loads(json.dumps(iterator.get_state()))
    assert state == {'next_index': 3}
    desired = batches(iterator, 4)
    other = rows.train_batches(DATA, 4, 0)
    other.set_state(state)
    for actual, want in zip(batches(other, 4), desired, strict=True):
        np.testing.assert_array_equal(actual['user'], want['user'])


@pytest.mark.parametrize('num_hosts', [1, 2])
def test_validation_in_order_and_padded(num_hosts):
    # Eleven rows are 4, 4 and 3.
    parts = [
        list(rows.val_batches(DATA, 4, host, num_hosts))
        for host in range(num_hosts)
    ]
    for host, made in enumerate(parts):
        assert len(made) == 3
        user = np.concatenate([b['user'] for b in made])
        valid = np.concatenate([b['valid'] for b in made])
        places = np.arange(host, 12, num_hosts)
        np.testing.assert_array_equal(valid, places < 11)
        np.testing.assert_array_equal(user, np.where(valid, places, 0))
        numeric = np.concatenate([b['numeric'] for b in made])
        np.testing.assert_array_equal(
            numeric[valid], DATA['numeric'][user[valid]]
        )
        assert not np.any(numeric[~valid])


def test_no_rows_no_batches():
    assert list(rows.val_batches({'user': np.zeros(0, int)}, 4)) == []

"""Hashes and permutations of integers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.workloads.multitask.data import hashing

_64 = 2**64


def splitmix64(number):
    """With Python's integers, step after step."""
    z = (number + 1) * 0x9E3779B97F4A7C15 % _64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % _64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % _64
    return z ^ (z >> 31)


def test_mix_is_splitmix64():
    # The first two of seed 0, as its authors publish them.
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    assert [splitmix64(0), splitmix64(1)] == published
    assert hashing.mix(np.arange(2), 0).tolist() == published
    # A seed moves the start.
    desired = [splitmix64((n + splitmix64(5)) % _64) for n in range(9)]
    assert hashing.mix(np.arange(9), 5).tolist() == desired


def test_uniform_is_uniform():
    # The share in each tenth is 0.1, of deviation sqrt(.09 / n) = 0.0009.
    chance = hashing.uniform(np.arange(100_000), 3)
    assert 0 <= np.min(chance) < np.max(chance) < 1
    share = np.histogram(chance, 10, (0, 1))[0] / len(chance)
    np.testing.assert_allclose(share, 0.1, rtol=0, atol=0.005)
    # Seeds have nothing to do with one another.
    other = hashing.uniform(np.arange(100_000), 4)
    assert abs(np.corrcoef(chance, other)[0, 1]) < 0.02


@given(st.integers(1, 300), st.integers(0, 2**50))
def test_permuted_is_a_permutation(count, seed):
    made = hashing.permuted(np.arange(count), count, seed)
    assert made.dtype == np.int64
    assert sorted(made.tolist()) == list(range(count))
    # Place by place it is the same.
    some = np.arange(count)[::-3]
    assert hashing.permuted(some, count, seed).tolist() == made[::-3].tolist()


@pytest.mark.parametrize('count', [4, 5])
def test_permutations_are_all_alike(count):
    # Place 0 goes everywhere equally often; the deviation of a share is at
    # most sqrt(.1875 / 2000) = 0.01.
    first = [
        hashing.permuted(np.arange(count), count, seed)[0]
        for seed in range(2000)
    ]
    share = np.bincount(first, minlength=count) / 2000
    np.testing.assert_allclose(share, 1 / count, rtol=0, atol=0.04)


def test_permuted_places_of_many():
    count = 10**12 + 7
    made = hashing.permuted(np.arange(1000), count, 1)
    assert len(set(made.tolist())) == 1000
    assert np.min(made) >= 0
    assert np.max(made) < count
    # Means of uniform numbers: within 5 of 1 / sqrt(12 * 1000).
    assert abs(np.mean(made) / count - 0.5) < 0.046

"""Calls in processes: results, and what they raise."""

import os

import pytest

from moe import pool


def test_one_process_is_this_one():
    found = pool.results(lambda x: (x * x, os.getpid()), [3, 1, 2], 1)
    desired = [(x, (x * x, os.getpid())) for x in (3, 1, 2)]
    assert list(found) == desired


def test_an_error_comes_out():
    found = pool.results(len, ['a', 3], 1)
    assert next(found) == ('a', 1)
    with pytest.raises(TypeError):
        next(found)


def test_several_processes():
    found = dict(pool.results(len, ['a', 'bb', 'ccc'], 2))
    assert found == {'a': 1, 'bb': 2, 'ccc': 3}
    with pytest.raises(TypeError):
        list(pool.results(len, ['a', 3], 2))

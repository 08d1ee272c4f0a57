"""Confusion of classes: counts by hand, its file, and what is kept of it."""

import json

import numpy as np
import pytest

from moe.config import ConfigError
from moe.workloads.vision.confusion import Confusion

# Class 0: two right, two taken for 2; class 1: none; class 2: one right, one
# taken for 0; class 3: one, taken for 0.
LABELS = np.int32([0, 0, 0, 0, 2, 2, 3])
GUESSES = np.int32([0, 2, 0, 2, 2, 0, 0])
MATRIX = [[2, 0, 2, 0], [0, 0, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0]]


@pytest.fixture
def found():
    return Confusion.of(LABELS, GUESSES, 4)


def test_counts_by_hand(found):
    desired = [[0, 0, 2], [0, 2, 2], [2, 0, 1], [2, 2, 1], [3, 0, 1]]
    np.testing.assert_array_equal(found.counts, desired)
    np.testing.assert_array_equal(found.matrix, MATRIX)
    np.testing.assert_array_equal(found.images, [4, 0, 2, 1])
    np.testing.assert_array_equal(found.accuracy, [0.5, np.nan, 0.5, 0])


def test_most_confused_pairs_come_first(found):
    assert found.confused(9) == [(0, 2, 2), (2, 0, 1), (3, 0, 1)]
    assert found.confused(1) == [(0, 2, 2)]


def test_what_an_evaluation_keeps(found):
    # Every value is JSON, and a class without images has no accuracy.
    kept = json.loads(json.dumps(found.described(at_most=2), allow_nan=False))
    assert kept == {
        'mean_accuracy': pytest.approx(1 / 3),
        'accuracy': [0.5, None, 0.5, 0.0],
        'images': [4, 0, 2, 1],
        'confused': [[0, 2, 2], [2, 0, 1]],
    }


def test_file_and_that_of_older_runs(found, tmp_path):
    path = tmp_path / 'confusion.json'
    found.write(path)
    for again in (Confusion.read(path), None):
        if again is None:  # the whole matrix, as runs wrote it before
            path.write_text(json.dumps(MATRIX))
            again = Confusion.read(path)
        assert again.num_classes == 4
        np.testing.assert_array_equal(again.counts, found.counts)


def test_many_classes_take_little(tmp_path):
    # The matrix of ImageNet-21k would have 477 million entries.
    size = 21_843
    found = Confusion.of(np.arange(size), np.arange(size)[::-1], size)
    found.write(tmp_path / 'confusion.json')
    assert (tmp_path / 'confusion.json').stat().st_size < 21 * size
    assert Confusion.read(tmp_path / 'confusion.json').accuracy.sum() == 1


@pytest.mark.parametrize(
    'text',
    [
        '7',
        '{}',
        '{"num_classes": 2, "counts": [[0, 2, 1]]}',
        '{"num_classes": 2, "counts": [[0, 1]]}',
        '[[1, 2], [3]]',
        '[[1, "a"]]',
    ],
)
def test_damaged_files_are_one_line(tmp_path, text):
    path = tmp_path / 'confusion.json'
    path.write_text(text)
    with pytest.raises(ConfigError, match='must be whole') as caught:
        Confusion.read(path)
    assert caught.value.value == str(path)

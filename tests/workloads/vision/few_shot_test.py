"""The linear probe: its closed form, its draws, and what it refuses."""

import types

import numpy as np
import pytest

from moe.config import ConfigError
from moe.workloads.vision import few_shot
from tests.reference import few_shot as reference


@pytest.mark.parametrize(('count', 'l2'), [(7, 4.0), (40, 0.5)])
def test_closed_form_is_the_least_squares(count, l2):
    # Fewer images than numbers of a representation, and more.
    draw = np.random.default_rng(0)
    x, others = (draw.normal(3, 2, (n, 12)).astype('f4') for n in (count, 30))
    labels = np.arange(count) % 4 % 3  # class 0 has more
    probe = few_shot.fit(x, labels, 3, l2)
    guess, solution = reference.classes(
        x.astype(float), labels, others.astype(float), 3, l2
    )
    np.testing.assert_allclose(probe.weights, solution[:-1], atol=1e-9)
    np.testing.assert_allclose(probe.bias, solution[-1], atol=1e-9)
    np.testing.assert_array_equal(probe.classify(others), guess)
    assert len(set(guess)) > 1


# 4,000 images, class 2 of which are three, somewhere behind the first thousand.
LABELS = np.arange(4000) % 2
LABELS[[1500, 2500, 3500]] = 2


def test_draws_have_so_many_of_each_class():
    ten = few_shot.select(LABELS.__getitem__, 4000, 3, 10, 0)
    assert [len(rows) for rows in ten] == [10, 10, 3]
    for label, rows in enumerate(ten):
        assert len(set(rows)) == len(rows)
        assert set(LABELS[rows]) == {label}
    # The first five are those of a draw of five, and other draws differ.
    five = few_shot.select(LABELS.__getitem__, 4000, 3, 5, 0)
    for fewer, rows in zip(five, ten, strict=True):
        np.testing.assert_array_equal(fewer, rows[:5])
    again = few_shot.select(LABELS.__getitem__, 4000, 3, 10, 1)
    assert set(again[0]) != set(ten[0])


def test_no_more_labels_are_read_than_are_needed():
    read = []

    def labels(rows):
        read.extend(rows)
        return rows % 2

    few_shot.select(labels, 4000, 2, 5, 0)
    assert len(read) == 1024


def test_every_class_must_have_an_image():
    y = np.array([0, 2, 2])
    data = types.SimpleNamespace(train_x=np.zeros(3), train_y=y, num_classes=3)
    opened = types.SimpleNamespace(data=data)
    with pytest.raises(ConfigError, match='none of 1'):
        few_shot.measure(opened, [1], 1)


def test_lines_tell_of_draws_and_small_classes():
    row = {'shots': 5, 'mean': 0.5, 'deviation': 0.125, 'fewest': 5}
    one = {'shots': 10, 'mean': 0.75, 'deviation': None, 'fewest': 7}
    found = {'step': 3, 'draws': 2, 'rows': [row, one]}
    assert few_shot.lines(found)[1:] == [
        '  5: accuracy 0.5000 ± 0.1250 over 2 draws',
        '  10 (a class has 7): accuracy 0.7500',
    ]

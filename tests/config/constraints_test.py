"""What annotations ask of numbers."""

import pytest

from moe.config import Above, AtLeast, Within


@pytest.mark.parametrize(
    ('constraint', 'value', 'problem'),
    [
        (AtLeast(2), 2, None),
        (AtLeast(2), 1, 'at least 2'),
        (Above(0.0), 0.5, None),
        (Above(0.0), 0.0, 'greater than 0.0'),
        (Within(0, 1), 1, None),
        (Within(0, 1), 2, 'between 0 and 1'),
        (Within(0, 1), float('nan'), 'between 0 and 1'),
    ],
)
def test_check(constraint, value, problem):
    assert constraint.check(value) == problem


def test_in_words():
    words = [str(c) for c in (AtLeast(1), Above(0.0), Within(0, 1))]
    assert words == ['>= 1', '> 0.0', 'in [0, 1]']

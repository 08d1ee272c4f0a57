"""One line of what cannot be used."""

import numpy as np

from moe.config import ConfigError


def test_long_values_of_many_lines_are_cut_to_one():
    # 77 characters of the value, and dots.
    line = str(ConfigError('field', 'x' * 100, 'short'))
    assert line == "field = '" + 'x' * 76 + '...: must be short'
    line = str(ConfigError('field', np.zeros((2, 3)), 'a number'))
    assert (
        line == 'field = array([[0., 0., 0.], [0., 0., 0.]]): must be a number'
    )


class Hostile:
    def __repr__(self):
        raise RuntimeError


def test_values_that_cannot_be_shown():
    # Python writes no integers of more than 4,300 digits.
    for value, shown in ((Hostile(), 'a Hostile'), (10**5000, 'a int')):
        line = str(ConfigError('field', value, 'small'))
        assert line == f'field = {shown}: must be small'
    line = str(ConfigError('a\nb\x1b[2J\u2028\udce9', 'ü', 'c\x00'))
    assert line == r"a b\x1b[2J \udce9 = 'ü': must be c\x00"


def test_inside():
    error = ConfigError('low', 2, 'at most 1').inside('config.inner')
    assert str(error) == 'config.inner.low = 2: must be at most 1'

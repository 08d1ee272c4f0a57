"""One line of what cannot be used."""

import numpy as np

from moe.config import ConfigError


def test_long_values_of_many_lines_are_cut_to_one():
    # 98 characters of the value and its quote, dots, 99 of its end.
    line = str(ConfigError('field', 'x' * 150 + 'y' * 150, 'short'))
    assert line == f"field = '{'x' * 97}...{'y' * 98}': must be short"
    path = '/a' * 90 + '/config.json'
    assert path in str(ConfigError('path', path, 'whole'))
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

"""What annotations ask of numbers."""

import jax
import pytest

from moe.config import Above, AtLeast, ConfigError, Seed, Within
from moe.config.constraints import check_unicode


@pytest.mark.parametrize(
    ('constraint', 'value', 'problem'),
    [
        (AtLeast(2), 2, None),
        (AtLeast(2), 1, 'at least 2'),
        (AtLeast(2), 2**31 - 1, None),
        (AtLeast(2), 2**31, 'at most 2147483647'),
        (AtLeast(2.0), 1e300, None),
        (Above(0.0), 0.5, None),
        (Above(0.0), 0.0, 'greater than 0.0'),
        (Within(0, 1), 1, None),
        (Within(0, 1), 2, 'between 0 and 1'),
        (Within(0, 1), float('nan'), 'between 0 and 1'),
    ],
)
def test_check(constraint, value, problem):
    assert constraint.check(value) == problem


def test_no_two_seeds_are_alike():
    # A key of JAX keeps 32 bits of the seed: 2**32 would be seed 0 again.
    key = lambda seed: jax.random.key_data(jax.random.key(seed)).tolist()
    (bounds,) = Seed.__metadata__
    assert (bounds.low, bounds.high) == (0, 2**32 - 1)
    ends = [key(s) for s in (0, 1, 2**31, 2**32 - 2, 2**32 - 1)]
    assert len({tuple(k) for k in ends}) == 5
    assert key(2**32) == key(0)


@pytest.mark.parametrize('text', ['a', '', 'ü', 'a\0b', '\u2028'])
def test_texts_in_utf_8(text):
    check_unicode('field', text)


def test_a_byte_that_is_no_utf_8():
    # As Python gives the byte E9 of a command line.
    with pytest.raises(ConfigError, match='a text in UTF-8'):
        check_unicode('field', 'caf\udce9')


def test_in_words():
    words = [str(c) for c in (AtLeast(1), Above(0.0), Within(0, 1))]
    assert words == ['>= 1', '> 0.0', 'in [0, 1]']

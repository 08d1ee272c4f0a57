"""Slots of an expert: exact arithmetic."""

import fractions
import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from moe.capacity import capacity
from tests.reference import routing as reference


@pytest.mark.parametrize(
    ('group_size', 'num_experts', 'k', 'factor', 'minimum', 'slots'),
    [
        (8, 4, 1, 1.0, 1, 2),  # 8*1*1/4
        (8, 4, 2, 1.25, 1, 5),  # 8*2*1.25/4
        (9, 4, 2, 1.0, 1, 5),  # 18/4 = 4.5
        (8, 4, 2, 0.01, 1, 1),  # .04
        (8, 4, 2, 0.01, 4, 4),  # at least the minimum
        (3, 4, 2, 0.01, 4, 3),  # but never more than S
        (8, 4, 2, 9.0, 1, 8),  # 36
        (8, 4, 2, None, 1, 8),  # dropless
        (8, 4, 2, 1, 1, 4),  # a whole number
        (1000, 1, 1, 1e-05, 1, 1),  # prints with an exponent
        # 51840*2*1.2/32 = 3888: float32, whose 1.2 is 1.2000000477, gives 3889
        (51840, 32, 2, 1.2, 1, 3888),
        # 100*1.1/5 = 22: float64, whose 100*1.1 is above 110, gives 23
        (100, 5, 1, 1.1, 1, 22),
    ],
)
def test_known_cases(group_size, num_experts, k, factor, minimum, slots):
    got = capacity(group_size, num_experts, k, factor, minimum)
    assert got == slots
    assert type(got) is int


def test_known_cases_are_hard():
    # The two above for which floating point is wrong: what it gives.
    single = np.float32(51840) * np.float32(2) * np.float32(1.2)
    assert math.ceil(single / np.float32(32)) == 3889
    assert math.ceil(100 * 1.1 / 5) == 23


@hypothesis.given(
    group_size=st.integers(1, 100_000),
    num_experts=st.integers(1, 512),
    k=st.integers(1, 8),
    hundredths=st.integers(1, 1000),
    minimum=st.integers(1, 8),
)
def test_is_exact(group_size, num_experts, k, hundredths, minimum):
    args = (group_size, num_experts, k)
    factor = f'{hundredths // 100}.{hundredths % 100:02d}'
    desired = reference.capacity(*args, factor, minimum)
    assert capacity(*args, float(factor), minimum) == desired
    # By the definition: room for the balanced share, and no slot to spare.
    share = fractions.Fraction(hundredths * group_size * k, 100 * num_experts)
    if minimum < desired < group_size:
        assert desired - 1 < share <= desired


@pytest.mark.parametrize(
    ('group_size', 'num_experts', 'factor', 'minimum', 'slots'),
    [
        (16, 2, 1.25, 4, 10),  # 16*1.25/2
        (100, 8, 1.25, 4, 15),  # 15.625, rounded down
        (10, 3, 1.25, 4, 4),  # 4.17
        (8, 4, 1.25, 4, 4),  # 2.5, at least the minimum
        (3, 4, 1.25, 4, 4),  # which may be more than S
        (8, 4, 9.0, 4, 8),  # 18, at most S
        (2, 4, 9.0, 4, 4),  # the least of the two at last
        (8, 4, 0.01, 1, 1),
        (100, 5, 1.1, 1, 22),  # exact: float64 is above
        (100, 3, 0.57, 1, 19),  # exact: float64's 100*.57 is below 57
        (8, 4, None, 1, 8),  # dropless
    ],
)
def test_rule_of_tokens(group_size, num_experts, factor, minimum, slots):
    # max(min(S, floor(S*f/E)), minimum), whatever K.
    for k in (1, 2, 3):
        args = (group_size, num_experts, k, factor, minimum)
        got = capacity(*args, rule='tokens')
        assert got == slots
        assert type(got) is int


def test_known_cases_of_the_rule_of_tokens_are_hard():
    assert math.floor(100 * 0.57 / 3) == 18

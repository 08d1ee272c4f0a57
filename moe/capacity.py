"""How many slots an expert has."""

import fractions
import math
from typing import Literal

CapacityRule = Literal['assignments', 'tokens']


def capacity(
    group_size: int,
    num_experts: int,
    k: int,
    factor: float | None,
    minimum: int = 1,
    rule: CapacityRule = 'assignments',
) -> int:
    """Slots of an expert in one group.

    `C = clip(ceil(S * K * factor / E), minimum, S)`, in exact arithmetic on
    the decimal that the factor prints as. Source: arXiv 2006.16668. With the
    rule 'tokens', of its first public code and for parity with it,
    `C = max(min(S, floor(S * factor / E)), minimum)`.

    Args:
      group_size: S, tokens.
      num_experts: E.
      k: K, assignments a token.
      factor: capacity factor; None is dropless, C = S.
      minimum: least number of slots.
      rule: share of the 'assignments', or of the 'tokens' whatever K.

    Returns:
      C, slots.

    >>> capacity(group_size=100, num_experts=8, k=2, factor=1.25)
    32
    >>> capacity(100, 8, 2, 1.25, minimum=4, rule='tokens')
    15
    """
    if factor is None:
        return group_size
    share = fractions.Fraction(repr(float(factor))) * group_size / num_experts
    if rule == 'tokens':
        return max(min(group_size, math.floor(share)), minimum)
    return min(max(math.ceil(share * k), minimum), group_size)

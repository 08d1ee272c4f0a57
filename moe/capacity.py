"""How many slots an expert has."""

import fractions
import math


def capacity(
    group_size: int,
    num_experts: int,
    k: int,
    factor: float | None,
    minimum: int = 1,
) -> int:
    """Slots of an expert in one group.

    `C = clip(ceil(S * K * factor / E), minimum, S)`, in exact arithmetic on
    the decimal that the factor prints as. Source: arXiv 2006.16668.

    Args:
      group_size: S, tokens.
      num_experts: E.
      k: K, assignments a token.
      factor: capacity factor; None is dropless, C = S.
      minimum: least number of slots.

    Returns:
      C, slots.

    >>> capacity(group_size=100, num_experts=8, k=2, factor=1.25)
    32
    """
    if factor is None:
        return group_size
    exact = (
        fractions.Fraction(repr(float(factor))) * group_size * k / num_experts
    )
    return min(max(math.ceil(exact), minimum), group_size)

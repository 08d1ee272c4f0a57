"""Capacity: how many assignments an expert takes in a group of tokens."""

import dataclasses
import fractions
import math
from typing import Literal

from moe.config import ConfigError, PositiveFloat, PositiveInt, Registry

CapacityRule = Literal['assignments', 'tokens']

CAPACITIES = Registry('capacity')


@CAPACITIES.register('dropless')
@dataclasses.dataclass(frozen=True)
class Dropless:
    """Every assignment is executed, however many an expert has."""


@CAPACITIES.register('factor')
@dataclasses.dataclass(frozen=True)
class CapacityFactor:
    """An expert takes a multiple of its balanced load; see `capacity`.

    Attributes:
      train: capacity factor in training; None drops nothing.
      eval: capacity factor in evaluation; None drops nothing.
      minimum: least capacity of an expert in a group.
      rule: share of the 'assignments', or of the 'tokens' whatever K.
      prioritized: whether tokens are taken by the router's confidence, and not
        in their order (batch-prioritized routing, arXiv 2106.05974).
    """

    train: PositiveFloat | None = 1.25
    eval: PositiveFloat | None = 2.0
    minimum: PositiveInt = 4
    rule: CapacityRule = 'assignments'
    prioritized: bool = False

    def __post_init__(self):
        if self.train is None and self.eval is None:
            allowed = "a number here or in eval (or capacity 'dropless')"
            raise ConfigError('train', None, allowed)


Capacity = Dropless | CapacityFactor


def capacity(
    group_size: int,
    num_experts: int,
    k: int,
    factor: float | None,
    minimum: int = 1,
    rule: CapacityRule = 'assignments',
) -> int:
    """Returns the capacity of an expert in one group of tokens.

    `C = clip(ceil(S * K * factor / E), minimum, S)`, in exact arithmetic on
    the decimal that the factor prints as. Source: arXiv 2006.16668. With the
    rule 'tokens', of its first public code and for parity with it,
    `C = max(min(S, floor(S * factor / E)), minimum)`.

    Args:
      group_size: S, tokens of the group.
      num_experts: E, number of experts.
      k: K, assignments a token.
      factor: capacity factor; None is dropless, C = S.
      minimum: least capacity.
      rule: share of the 'assignments', or of the 'tokens' whatever K.

    Returns:
      C, the assignments that an expert takes in the group.

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

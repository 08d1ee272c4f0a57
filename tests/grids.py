"""Routings by hand, and the grids of any kind of them in NumPy."""

import numpy as np

from moe.types import ExpertChoice, TokenChoice


def make(*, token=None, expert=None, **fields):
    """A token-choice Routing, or of the tokens that experts chose."""
    if token is None:
        return TokenChoice(expert=expert, **fields)
    return ExpertChoice(token=token, **fields)


def expert_of(routing):
    """Expert of each assignment, [G, N, M]."""
    return np.asarray(routing.assignment_expert())


def token_of(routing):
    """Token of each assignment within its group, [G, N, M]."""
    return np.asarray(routing.assignment_token())

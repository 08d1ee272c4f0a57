"""Top-2 mixtures of one and of two levels, each made by one function.

S tokens of a sequence, D width, F hidden width, E experts, M groups of them.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
from jaxtyping import Array

from moe.config import ConfigError, options
from moe.experts import MLP, Activation, HeterogeneousExperts, Lifted
from moe.layers.auxiliary import load_balance
from moe.layers.hierarchical import HierarchicalMoE
from moe.layers.moe import MoE
from moe.losses import Scope
from moe.routing import top2
from moe.types import AuxiliaryLoss

Experts = nn.Module | Sequence[nn.Module] | None


def top2_moe(
    dim: int,
    num_experts: int = 16,
    hidden: int | None = None,
    *,
    activation: Activation | Callable[[Array], Array] = 'relu',
    experts: Experts = None,
    capacity_factor: float | None = 1.25,
    eval_capacity_factor: float | None = 2.0,
    **others: Any,
) -> MoE:
    """Returns a mixture whose router is `top2`, with limited capacity.

    `y[t] = g1[t] * expert_1(x[t]) + g2[t] * expert_2(x[t])`, with at most
    `max(min(S, floor(S * factor / E)), 4)` tokens an expert in each sequence.
    The layer returns `(y, aux)`: add `1e-2 * aux.losses['load_balance']` to
    the objective. Training needs an rng named 'router'.
    Source: GShard, arXiv 2006.16668, and its first public code.

    Args:
      dim: D, of tokens [B, S, D].
      num_experts: E.
      hidden: F, of the experts, two matrices without biases; None is 4 * D.
      activation: activation between the two, see `MLP`.
      experts: other experts: a module of rows [N, D], of which E copies are
        made, each with its own parameters; E modules, which may differ; or a
        module with `num_experts` like `MLP`. Inside another module's
        `__call__` make them with `parent=None`, so that they are this layer's.
      capacity_factor: capacity factor in training; None drops no token.
      eval_capacity_factor: capacity factor in evaluation.
      **others: options of `top2`, e.g. `policy`, and further fields of `MoE`.

    Raises:
      ConfigError: if there are not as many experts as `num_experts`.
    """
    if experts is None:
        experts = MLP(hidden or 4 * dim, num_experts, activation, parent=None)
    elif isinstance(experts, Sequence):
        experts = HeterogeneousExperts(tuple(experts), parent=None)
    elif not hasattr(experts, 'num_experts'):
        experts = Lifted(experts, num_experts, parent=None)
    count = experts.num_experts  # type: ignore[attr-defined]
    if count != num_experts:
        raise ConfigError('experts', count, f'num_experts ({num_experts})')
    gating = {name: others.pop(name) for name in options(top2).keys() & others}
    fields: dict[str, Any] = {
        'router': functools.partial(top2, **gating),
        'capacity_factor': capacity_factor,
        'eval_capacity_factor': eval_capacity_factor,
        'min_capacity': 4,
        'capacity_rule': 'tokens',
        'losses': _balance('group'),
    }
    return MoE(experts, **fields | others)


def hierarchical_top2_moe(
    dim: int,
    num_experts: tuple[int, int] = (4, 4),
    hidden: int | None = None,
    **others: Any,
) -> HierarchicalMoE:
    """Returns a two-level mixture with a `top2` router at both levels.

    The outer router sends tokens to M groups; the router of each group sends
    what it received to E experts of its own.
    Source: GShard, arXiv 2006.16668, and its first public code.

    Args:
      dim: D, of tokens [B, S, D].
      num_experts: (M, E).
      hidden: F, as in `top2_moe`.
      **others: options of `top2_moe`; capacity and gating hold at both
        levels. Experts are those of one group, of which each has a copy.

    Raises:
      ConfigError: if the experts of a group are not E, or one number is given.
    """
    if not isinstance(num_experts, Sequence) or len(num_experts) != 2:
        allowed = 'a pair (groups, experts of a group)'
        raise ConfigError('num_experts', num_experts, allowed)
    groups, count = num_experts
    # As in the GShard code: a mean over empty rows too.
    fields = {'losses': _balance('padded'), 'parent': None}
    inner = top2_moe(dim, count, hidden, **fields | others)
    return HierarchicalMoE(inner, groups, inner.router)


def _balance(scope: Scope) -> dict[str, AuxiliaryLoss]:
    """Returns the load-balance loss with a scope, as `MoE.losses` takes it."""
    return {'load_balance': functools.partial(load_balance, scope=scope)}

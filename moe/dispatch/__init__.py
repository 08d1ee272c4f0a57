"""Dispatch: plans of who goes where, and the dispatchers that follow them."""

from moe.dispatch.base import DISPATCHERS, Dispatcher, Experts
from moe.dispatch.choice import choose
from moe.dispatch.dispatchers import (
    grouped,
    indexed,
    onehot,
    row_weight,
)
from moe.dispatch.plan import (
    Plan,
    grouped_plan,
    only_experts,
    padded_plan,
    within_capacity,
)
from moe.dispatch.sparse import SparseDispatcher

__all__ = [
    'DISPATCHERS',
    'Dispatcher',
    'Experts',
    'Plan',
    'SparseDispatcher',
    'choose',
    'grouped',
    'grouped_plan',
    'indexed',
    'onehot',
    'only_experts',
    'padded_plan',
    'row_weight',
    'within_capacity',
]

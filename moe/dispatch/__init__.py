"""Dispatch: plans of who goes where, and their execution."""

from moe.dispatch.execute import (
    EXECUTORS,
    grouped,
    indexed,
    onehot,
    row_weight,
)
from moe.dispatch.plan import Plan, grouped_plan, padded_plan
from moe.dispatch.sparse import SparseDispatcher

__all__ = [
    'EXECUTORS',
    'Plan',
    'SparseDispatcher',
    'grouped',
    'grouped_plan',
    'indexed',
    'onehot',
    'padded_plan',
    'row_weight',
]

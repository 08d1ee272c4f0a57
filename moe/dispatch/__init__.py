"""Dispatch: plans of who goes where, and their execution."""

from moe.dispatch.execute import (
    EXECUTORS,
    Executor,
    grouped,
    indexed,
    onehot,
    row_weight,
)
from moe.dispatch.plan import (
    Plan,
    grouped_plan,
    kept,
    only_experts,
    padded_plan,
)
from moe.dispatch.sparse import SparseDispatcher

__all__ = [
    'EXECUTORS',
    'Executor',
    'Plan',
    'SparseDispatcher',
    'grouped',
    'grouped_plan',
    'indexed',
    'kept',
    'onehot',
    'only_experts',
    'padded_plan',
    'row_weight',
]

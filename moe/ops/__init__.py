"""Primitives: grouped products, row movements and sorts, per platform."""

from moe.ops.attention import ATTENTION_KERNELS
from moe.ops.gated import gated_experts, takes_gated
from moe.ops.grouped_matmul import grouped_matmul, grouped_matmuls
from moe.ops.rows import combine_rows, dispatch_rows
from moe.ops.sort import stable_sort

__all__ = [
    'ATTENTION_KERNELS',
    'combine_rows',
    'dispatch_rows',
    'gated_experts',
    'grouped_matmul',
    'grouped_matmuls',
    'stable_sort',
    'takes_gated',
]

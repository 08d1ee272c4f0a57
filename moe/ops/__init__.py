"""Primitives: grouped products and row movements, per platform."""

from moe.ops.attention import ATTENTION_KERNELS
from moe.ops.grouped_matmul import grouped_matmul
from moe.ops.rows import combine_rows, dispatch_rows

__all__ = [
    'ATTENTION_KERNELS',
    'combine_rows',
    'dispatch_rows',
    'grouped_matmul',
]

"""Primitives: grouped products and row movements, per platform."""

from moe.ops.attention import ATTENTION_KERNELS
from moe.ops.grouped_matmul import grouped_matmul
from moe.ops.rows import collect, spread

__all__ = [
    'ATTENTION_KERNELS',
    'collect',
    'grouped_matmul',
    'spread',
]

"""Grouped products on GPUs of NVIDIA's: kernels on Hopper, blocks elsewhere."""

from moe.ops.nvidia.products import outer, rows_times

__all__ = ['outer', 'rows_times']

"""Grouped products on TPU: kernels whose cost follows the rows."""

from moe.ops.tpu.calls import outer_products, products, summed_products
from moe.ops.tpu.tiles import fits

__all__ = ['fits', 'outer_products', 'products', 'summed_products']

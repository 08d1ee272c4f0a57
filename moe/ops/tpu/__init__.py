"""Grouped products on TPU: kernels whose cost follows the rows."""

from moe.ops.tpu.outer import outer_products
from moe.ops.tpu.row_products import products, summed_products
from moe.ops.tpu.tiles import fits

__all__ = ['fits', 'outer_products', 'products', 'summed_products']

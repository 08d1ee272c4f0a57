"""The work of kernels, which the compiler does not look into."""

import math
import re

from launch.planning import gpu_kernels, tpu_kernels
from launch.planning.hlo import Computation, Instruction

# Products of a block of scores: Q K^T and P V; for the queries' gradient
# Q K^T, dO V^T and dS K; for the keys' and values' also P^T dO and dS^T Q, but
# not dS K.
_PRODUCTS = {'fwd': 2, 'dq': 3, 'dkv': 4}
# The two operands of which a block is read for every block of scores.
_STREAMED = {'fwd': (3, 4), 'dq': (3, 4), 'dkv': (2, 6)}


def unseen(
    here: Computation, instruction: Instruction, rows: float
) -> tuple[float, float]:
    """Returns the FLOPs of a kernel, and bytes beyond its operands and results.

    Args:
      here: the computation of the instruction.
      instruction: any; the result is 0 unless it is a kernel that is known.
      rows: rows of experts on a device in the mean, where they are in a larger
        buffer whose empty rows the kernel leaves out.

    Returns:
      FLOPs, and bytes beyond reading each operand and writing each result once,
      negative if it does not read or write all of them.
    """
    if instruction.opcode == 'fusion':
        return tpu_kernels.masked_product(here, instruction, rows)
    if instruction.opcode != 'custom-call':
        return 0.0, 0.0
    found = re.search(r'/splash_mha_(fwd|dq|dkv)', instruction.attributes)
    if found and 'tpu_custom_call' in instruction.attributes:
        return _splash(here, instruction, found.group(1))
    if 'ragged_dot_tiling' in instruction.attributes:
        return tpu_kernels.ragged_dot(here, instruction, rows)
    if re.search(r'/grouped_(products|outer)\b', instruction.attributes):
        return tpu_kernels.grouped_products(here, instruction, rows)
    target = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
    count = gpu_kernels.KERNELS.get(target.group(1) if target else '')
    return count(here, instruction, rows) if count else (0.0, 0.0)


def _splash(
    here: Computation, instruction: Instruction, phase: str
) -> tuple[float, float]:
    """Counts jax's splash attention.

    Its operands are the order of its blocks [1, n, n], queries, keys and
    values. With a causal mask, made from positions as the last operand, it
    computes `n (n + 1) / 2` blocks of scores, else all.
    """
    given = here.arrays(instruction)
    blocks, query = given[0].dims[-1], given[2]
    causal = given[-1].dtype == 's32'
    visible = (blocks + 1) / (2 * blocks) if causal else 1.0
    length = query.dims[-2]
    product = 2.0 * math.prod(query.dims) * length * visible
    streamed = 2 * query.bytes * blocks * visible
    once = sum(given[i].bytes for i in _STREAMED[phase])
    return _PRODUCTS[phase] * product, streamed - once

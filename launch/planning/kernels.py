"""The work of fused kernels, which the compiler does not count."""

import math
import re

from launch.planning.hlo import Computation, Instruction

# Products of a block of scores: Q K^T and P V; for the queries' gradient
# Q K^T, dO V^T and dS K; for the keys' and values' also P^T dO and dS^T Q, but
# not dS K.
_PRODUCTS = {'fwd': 2, 'dq': 3, 'dkv': 4}
# The two operands of which a block is read for every block of scores.
_STREAMED = {'fwd': (3, 4), 'dq': (3, 4), 'dkv': (2, 6)}


def attention(here: Computation, instruction: Instruction) -> tuple[float, ...]:
    """Returns the FLOPs of fused attention, and bytes it reads repeatedly.

    Its operands are the order of its blocks [1, n, n], queries, keys and
    values. With a causal mask, made from positions as the last operand, it
    computes `n (n + 1) / 2` blocks of scores, else all.

    Args:
      here: the computation of the instruction.
      instruction: any; the result is 0 unless it is jax's splash attention.

    Returns:
      FLOPs, and bytes beyond reading each operand once, of one run.
    """
    found = re.search(r'/splash_mha_(fwd|dq|dkv)', instruction.attributes)
    if not found or 'tpu_custom_call' not in instruction.attributes:
        return 0.0, 0.0
    phase, given = found.group(1), here.arrays(instruction)
    blocks, query = given[0].dims[-1], given[2]
    causal = given[-1].dtype == 's32'
    visible = (blocks + 1) / (2 * blocks) if causal else 1.0
    length = query.dims[-2]
    product = 2.0 * math.prod(query.dims) * length * visible
    streamed = 2 * query.bytes * blocks * visible
    once = sum(given[i].bytes for i in _STREAMED[phase])
    return _PRODUCTS[phase] * product, streamed - once

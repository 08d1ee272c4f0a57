"""The work of grouped products on TPUs: our kernels, and the native ones."""

import math
import re

from launch.planning.hlo import Computation, Instruction
from launch.planning.products import product_flops

# Rows that our kernels multiply at least, see `moe.ops.tpu.tiles`.
ROWS = 16


def grouped_products(
    here: Computation, instruction: Instruction, rows: float
) -> tuple[float, float]:
    """Returns what our grouped products do beside what they state.

    They state their FLOPs for a full buffer, `2 M (A + E ROWS) K N`, and their
    bytes, both at most: gradients of matrices for groups up to half larger than
    the mean, see `moe.ops.tpu.tiles`. Rows past the last group are not
    multiplied.

    Args:
      here: the computation of the instruction.
      instruction: any; the result is 0 unless it is such a kernel.
      rows: see `launch.planning.kernels.unseen`.

    Returns:
      FLOPs of the empty rows, negative, and bytes beyond reading each operand
      and writing each result once.
    """
    text = instruction.attributes
    found = re.search(r'"?bytes_accessed"?:"?(\d+)', text)
    if not found or not re.search(r'/grouped_(products|outer)\b', text):
        return 0.0, 0.0
    # Beside them are the visits, a few numbers.
    arrays = [*here.arrays(instruction), *instruction.shape]
    arrays = [array for array in arrays if array.dtype == 'bf16']
    size = max(array.dims[0] for array in arrays if len(array.dims) == 2)
    groups = next(array.dims[0] for array in arrays if len(array.dims) == 3)
    empty = size - min(rows, size)
    once = sum(array.bytes for array in arrays)
    stated = product_flops(here, instruction)
    flops = -stated * empty / (size + groups * ROWS)
    return flops, max(0.0, float(found.group(1)) - once)


def ragged_dot(
    here: Computation, instruction: Instruction, rows: float
) -> tuple[float, float]:
    """Returns what the native ragged product of rows does beside its shapes.

    Its tiles of [m, k, n] go over each tile of rows once for each group with
    rows in it, `ceil(A / m) + E - 1` visits of m rows, and over widths rounded
    up to tiles. Rows are read once for each column of tiles, and matrices once
    a visit if they have several tiles along k.

    Args:
      here: the computation of the instruction.
      instruction: any; the result is 0 unless it is such a kernel.
      rows: see `launch.planning.kernels.unseen`.

    Returns:
      FLOPs beyond `2 A K N`, which it states, and bytes beyond reading each
      operand once, of one run.
    """
    tiling = re.search(
        r'ragged_dot_tiling="(\d+),(\d+),(\d+)"', instruction.attributes
    )
    if not tiling:
        return 0.0, 0.0
    m, k, n = (int(size) for size in tiling.groups())
    x, w = here.arrays(instruction)[-2:]
    size, depth = x.dims
    groups, width = w.dims[0], math.prod(w.dims[1:]) // depth
    visits = math.ceil(min(rows, size) / m) + groups - 1
    steps, columns = math.ceil(depth / k), math.ceil(width / n)
    executed = 2.0 * visits * m * steps * k * columns * n
    times = visits / groups if steps > 1 else 1.0
    again = (columns - 1) * x.bytes + (times - 1) * w.bytes
    return executed - 2.0 * size * depth * width, again


def masked_product(
    here: Computation, instruction: Instruction, rows: float
) -> tuple[float, float]:
    """Returns the FLOPs that a product under a mask of groups skips.

    The native ragged product over rows is a product of all rows with each of E
    groups, [E, A, D] x [E, A, F], under a mask. Of its blocks of rows those
    without rows of the group are skipped: of `E B` there are left `B + E - 1`.

    Args:
      here: the computation of the instruction.
      instruction: any; the result is 0 unless it is such a fusion.
      rows: see `launch.planning.kernels.unseen`.

    Returns:
      FLOPs of the skipped blocks, negative, and 0 bytes.
    """
    text = instruction.attributes
    if instruction.opcode != 'fusion' or (
        'SKIPPER_MODE_ITERATION_INDICES' not in text
    ):
        return 0.0, 0.0
    found = re.search(r'"iteration_bounds":\[([^\]]*)\]', text)
    bounds = re.findall(r'\d+', found.group(1)) if found else []
    if not bounds:
        return 0.0, 0.0
    blocks, groups = int(bounds[-1]), instruction.shape[0].dims[0]
    size = here.arrays(instruction)[0].dims[0]
    filled = math.ceil(blocks * min(rows, size) / size)
    left = (filled + groups - 1) / (blocks * groups)
    dense = 2.0 * size * math.prod(instruction.shape[0].dims)
    return (min(left, 1.0) - 1.0) * dense, 0.0

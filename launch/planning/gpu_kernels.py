"""The work of kernels on NVIDIA GPUs, by the target of the custom call."""

import math
import re
from collections.abc import Callable

from launch.planning.hlo import Array, Computation, HLOError, Instruction
from launch.planning.products import convolution

# Positions of a block of scores; those that a causal mask hides wholly are not
# computed. Source: FlashAttention-3, arXiv 2407.08608, whose blocks of queries
# and of keys are 128 or more; cuDNN's own are not published.
_BLOCK = 128


def matmul(
    here: Computation, instruction: Instruction, rows: float
) -> tuple[float, float]:
    """Counts a product of cuBLAS, whose last result is room that it works in.

    Args:
      here: the computation of the instruction.
      instruction: the custom call.
      rows: see `launch.planning.kernels.unseen`.

    Returns:
      FLOPs, and bytes beyond reading each operand and writing each result once.
    """
    del rows
    left = here.arrays(instruction)[0]
    summed = re.search(
        r'"lhs_contracting_dimensions":\[([^\]]*)\]', instruction.attributes
    )
    if not summed:
        raise HLOError(f'{instruction.name}: no dimensions that are summed')
    axes = re.findall(r'\d+', summed.group(1))
    depth = math.prod(left.dims[int(axis)] for axis in axes)
    flops = 2.0 * math.prod(instruction.shape[0].dims) * depth
    return flops, -_room(instruction)


def attention(
    here: Computation, instruction: Instruction, rows: float
) -> tuple[float, float]:
    """Counts attention of cuDNN, forward or backward.

    Forward the products of a block of scores are Q K^T and P V, backward Q K^T,
    dO V^T, P^T dO, dS^T Q and dS K. Keys and values, which every block of
    queries reads, are taken to stay in the level-2 cache.

    Args:
      here: the computation of the instruction, queries are its first operand.
      instruction: the custom call.
      rows: see `launch.planning.kernels.unseen`.

    Returns:
      FLOPs, and bytes beyond reading each operand and writing each result once.
    """
    del rows
    shape = re.search(
        r'"intermediate_tensor_shape": ?\{.*?"dimensions": ?\[([^\]]*)\]',
        instruction.attributes,
    )
    if not shape:
        raise HLOError(f'{instruction.name}: no shape of the scores')
    scores = [int(size) for size in re.findall(r'\d+', shape.group(1))]
    width = here.arrays(instruction)[0].dims[-1]
    blocks = math.ceil(scores[-1] / _BLOCK)
    causal = re.search(r'"mask_type": ?"[A-Z_]*CAUSAL', instruction.attributes)
    visible = (blocks + 1) / (2 * blocks) if causal else 1.0
    products = 5 if 'Backward' in instruction.attributes else 2
    flops = products * 2.0 * math.prod(scores) * width * visible
    return flops, -_room(instruction)


def convolutions(
    here: Computation, instruction: Instruction, rows: float
) -> tuple[float, float]:
    """Counts a convolution of cuDNN, or its gradient.

    The attributes are those of the convolution in the forward pass.

    Args:
      here: the computation of the instruction.
      instruction: the custom call.
      rows: see `launch.planning.kernels.unseen`.

    Returns:
      FLOPs, and bytes beyond reading each operand and writing each result once.
    """
    del rows
    first, second, *_ = here.arrays(instruction)
    made = instruction.shape[0]
    left, right, out = first, second, made
    if 'convBackwardInput' in instruction.attributes:
        left, right, out = made, second, first
    elif 'convBackwardFilter' in instruction.attributes:
        left, right, out = first, made, second
    return convolution(left, right, out, instruction), -_room(instruction)


def mosaic(
    here: Computation, instruction: Instruction, rows: float
) -> tuple[float, float]:
    """Counts a kernel of ours in Pallas, by the name of the kernel.

    Args:
      here: the computation of the instruction.
      instruction: the custom call.
      rows: see `launch.planning.kernels.unseen`.

    Returns:
      FLOPs, and bytes beyond reading each operand and writing each result once,
      0 for kernels that are not known.
    """
    found = re.search(r'/(moe_\w+)', instruction.attributes)
    count = GROUPED.get(found.group(1) if found else '')
    if count is None:
        return 0.0, 0.0
    # After the tiles; of products that are summed first all rows, then all
    # matrices. The result is written once.
    made = instruction.shape[0]
    given = [a for a in here.arrays(instruction) if len(a.dims) > 1]
    number = len(given) // 2
    pairs = zip(given[:number], given[number:], strict=True)
    counts = [count(*pair, made, rows) for pair in pairs]
    again = (number - 1) * (min(1.0, rows / given[0].dims[0]) - 1) * made.bytes
    return sum(f for f, _ in counts), sum(b for _, b in counts) - again


def grouped_rows(
    x: Array, w: Array, y: Array, rows: float
) -> tuple[float, float]:
    """Counts rows [A, K] times the matrix of their group, [E, K, N] or turned.

    Args:
      x: the rows.
      w: the matrices.
      y: the result, [A, N].
      rows: rows that are of a group in the mean.

    Returns:
      FLOPs, and bytes beyond reading each operand and writing the result once.
    """
    del w
    filled = min(1.0, rows / x.dims[0])
    flops = 2.0 * math.prod(y.dims) * x.dims[-1] * filled
    return flops, (filled - 1) * (x.bytes + y.bytes)


def grouped_outer(
    x: Array, dy: Array, dw: Array, rows: float
) -> tuple[float, float]:
    """Counts `sum_a x[a] dy[a]^T` by group, of [A, D] and [A, F].

    Args:
      x: rows.
      dy: the rows' gradients.
      dw: the result, [E, D, F].
      rows: rows that are of a group in the mean.

    Returns:
      FLOPs, and bytes beyond reading each operand and writing the result once.
    """
    filled = min(1.0, rows / x.dims[0])
    flops = 2.0 * math.prod(dw.dims[1:]) * x.dims[0] * filled
    return flops, (filled - 1) * (x.bytes + dy.bytes)


def _room(instruction: Instruction) -> float:
    """Returns the bytes of the last result, if it is bytes to work in."""
    last = instruction.shape[-1]
    several = len(instruction.shape) > 1 and last.dtype in ('s8', 'u8')
    return float(last.bytes) if several else 0.0


# By the name that the kernel was given.
GROUPED = {
    'moe_grouped_rows': grouped_rows,
    'moe_grouped_outer': grouped_outer,
}
Count = Callable[[Computation, Instruction, float], tuple[float, float]]
KERNELS: dict[str, Count] = {
    '__cublas$gemm': matmul,
    '__cublas$lt$matmul': matmul,
    '__cudnn$fmhaSoftmax': attention,
    '__cudnn$fmhaSoftmaxBackward': attention,
    '__cudnn$fmhaScaleBiasSoftmax': attention,  # of documents
    '__cudnn$fmhaScaleBiasSoftmaxBackward': attention,
    '__cudnn$convForward': convolutions,
    '__cudnn$convBiasActivationForward': convolutions,
    '__cudnn$convBackwardInput': convolutions,
    '__cudnn$convBackwardFilter': convolutions,
    'mosaic_gpu_v2': mosaic,
}

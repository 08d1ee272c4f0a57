"""FLOPs of products: dots, convolutions, and kernels that say theirs."""

import math
import re
from collections.abc import Callable

from launch.planning.hlo import Array, Computation, HLOError, Instruction


def product_flops(here: Computation, instruction: Instruction) -> float:
    """Returns two FLOPs a multiplication of a dot, convolution or kernel.

    Args:
      here: the computation of the instruction.
      instruction: any; others have no products.
    """
    if instruction.opcode == 'dot':
        left = here.instructions[instruction.operands[0]].shape[0]
        found = re.search(
            r'lhs_contracting_dims=\{([\d,]*)\}', instruction.attributes
        )
        axes = found.group(1).split(',') if found and found.group(1) else []
        depth = math.prod(left.dims[int(i)] for i in axes)
        return 2.0 * math.prod(instruction.shape[0].dims) * depth
    if instruction.opcode == 'convolution':
        left, right = here.arrays(instruction)
        return convolution(left, right, instruction.shape[0], instruction)
    if instruction.opcode == 'custom-call':
        # A kernel, such as that of a ragged dot, says itself.
        found = re.search(r'"?flops"?:"?(\d+)', instruction.attributes)
        return float(found.group(1)) if found else 0.0
    return 0.0


def convolution(
    left: Array, right: Array, out: Array, instruction: Instruction
) -> float:
    """Returns the FLOPs of a convolution, without padding and holes.

    Args:
      left: what is convolved.
      right: the kernel.
      out: the result.
      instruction: it has the attributes, the dimensions' labels among them.

    Raises:
      HLOError: if it has none.
    """
    labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', instruction.attributes)
    if not labels:
        raise HLOError(f'{instruction.name}: no dim_labels')
    of_left, of_right, of_out = labels.groups()
    batches = re.search(r'batch_group_count=(\d+)', instruction.attributes)
    # The kernel's input features are those of one group already.
    total = (
        right.dims[of_right.index('i')]
        * right.dims[of_right.index('o')]
        * left.dims[of_left.index('b')]
        // (int(batches.group(1)) if batches else 1)
    )
    window = _window(instruction.attributes)
    for i in range(len(out.dims) - 2):
        axis = str(i)
        total *= _valid(
            left.dims[of_left.index(axis)],
            out.dims[of_out.index(axis)],
            right.dims[of_right.index(axis)],
            stride=window('stride', i, 1),
            pad=window('pad', i, 0),
            base=window('lhs_dilate', i, 1),
            dilation=window('rhs_dilate', i, 1),
        )
    return 2.0 * total


def _window(attributes: str) -> Callable[[str, int, int], int]:
    """Returns a function for a window's fields by dimension; lower `pad`."""
    found = re.search(r'window=\{([^}]*)\}', attributes)
    fields = dict(
        field.split('=') for field in (found.group(1).split() if found else [])
    )

    def get(name: str, dim: int, default: int) -> int:
        if name not in fields:
            return default
        return int(fields[name].split('x')[dim].split('_')[0])

    return get


def _valid(size, out, kernel, *, stride, pad, base, dilation) -> int:
    """Counts pairs of output and kernel positions that meet an element."""
    span = (size - 1) * base + 1
    total = 0
    for k in range(kernel):
        # First and last output whose place o*stride + k*dilation - pad exists.
        shift = k * dilation - pad
        low = max(0, math.ceil(-shift / stride))
        high = min(out - 1, (span - 1 - shift) // stride)
        if high < low:
            continue
        if base == 1:
            total += high - low + 1
        else:
            places = range(low * stride + shift, high * stride + shift + 1)
            total += sum(p % base == 0 for p in places[::stride])
    return total

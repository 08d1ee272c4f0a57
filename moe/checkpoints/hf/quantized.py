"""Quantised tensors of published checkpoints, which are read by dequantising.

fp8: float8 (E4M3) with one scale a block of 128 x 128, as DeepSeek-V3 has.
mxfp4: 4-bit floats (E2M1) with one power of two for 32 of them, as gpt-oss has.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from moe.checkpoints.hf.files import Stored, read_tensor
from moe.config import ConfigError

# What the 16 codes of E2M1 stand for: a sign, two bits of exponent, one of
# mantissa. Source: OCP Microscaling Formats (MX) Specification v1.0, 5.3.3.
_POSITIVE = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], np.float32)
E2M1 = np.concatenate([_POSITIVE, -_POSITIVE])


class Tensor(NamedTuple):
    """One tensor as it is meant, however it is stored.

    Attributes:
      dtype: the dtype in the file, such as 'BF16', or the name of the
        quantisation.
      shape: its shape.
      read: returns its values.
      stored: the names in the files that it is made of.
    """

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    stored: tuple[str, ...]


def dequantize_blocks(
    values: Float[np.ndarray, 'M N'],
    scales: Float[np.ndarray, 'm n'],
    block: tuple[int, int] = (128, 128),
) -> Float[np.ndarray, 'M N']:
    """Multiplies each block of a matrix with its scale.

    `y[i, j] = x[i, j] * s[i // b0, j // b1]`; the last blocks may be smaller.
    Source: DeepSeek-V3, arXiv 2412.19437, section 3.3.2, and the
    `weight_scale_inv` of its files.

    Args:
      values: float8.
      scales: one scale a block, `m = ceil(M / b0)`, `n = ceil(N / b1)`.
      block: rows and columns of a block.

    Returns:
      The matrix in float32.
    """
    found = values.astype(np.float32)
    rows = np.arange(found.shape[0]) // block[0]
    for j in range(scales.shape[1]):
        columns = slice(j * block[1], (j + 1) * block[1])
        found[:, columns] *= scales[rows, j].astype(np.float32)[:, None]
    return found


def dequantize_mxfp4(
    blocks: UInt8[np.ndarray, '... G B'], scales: UInt8[np.ndarray, '... G']
) -> Float[np.ndarray, '... W']:
    """Unpacks 4-bit floats, `W = 2 G B` a row.

    The low half of a byte comes first, and a group of 2 B is multiplied with
    `2^(scale - 127)`. Source: OCP Microscaling Formats (MX) Specification
    v1.0, and the `_blocks` and `_scales` of gpt-oss.

    Args:
      blocks: bytes with two codes each.
      scales: one exponent a group.

    Returns:
      The values in float32.
    """
    found = np.empty((*blocks.shape, 2), np.float32)
    found[..., 0] = E2M1[blocks & 15]
    found[..., 1] = E2M1[blocks >> 4]
    exponent = scales.astype(np.int32) - 127
    np.ldexp(found, exponent[..., None, None], out=found)
    return found.reshape(*blocks.shape[:-2], -1)


def as_meant(
    stored: Mapping[str, Stored], quantization: Mapping[str, Any] | None
) -> dict[str, Tensor]:
    """Returns the tensors of a checkpoint without their quantisation.

    Args:
      stored: the tensors in the files.
      quantization: the config's `quantization_config`; None without one.

    Raises:
      ConfigError: for a quantisation that is not known, or a quantised tensor
        without its scales.
    """
    given = dict(quantization or {})
    method = given.pop('quant_method', None)
    found = {
        name: Tensor(one.dtype, one.shape, _reader(one), (name,))
        for name, one in stored.items()
    }
    if method is None:
        join = _plain
    elif method == 'fp8':
        join = _fp8
    elif method == 'mxfp4':
        join = _mxfp4
    else:
        field = 'quantization_config.quant_method'
        raise ConfigError(field, method, "'fp8' or 'mxfp4', or absent")
    return join(found, given)


def _reader(one: Stored) -> Callable[[], np.ndarray]:
    return lambda: read_tensor(one)


def _plain(found, given):
    del given
    for name, tensor in found.items():
        if tensor.dtype.startswith('F8'):
            allowed = 'no float8 without a quantization_config'
            raise ConfigError(name, tensor.dtype, allowed)
    return found


def _fp8(found, given):
    block = given.get('weight_block_size')
    if not isinstance(block, list) or len(block) != 2:
        field = 'quantization_config.weight_block_size'
        raise ConfigError(field, block, 'rows and columns of a block')
    if given.get('fmt', 'e4m3') != 'e4m3':
        field = 'quantization_config.fmt'
        raise ConfigError(field, given['fmt'], "'e4m3'")
    scales = {n for n in found if n.endswith('.weight_scale_inv')}
    joined = {}
    for name, tensor in found.items():
        if name in scales:
            if name.removesuffix('_scale_inv') not in found:
                raise ConfigError(name, tensor.dtype, 'beside its weight')
            continue
        joined[name] = tensor
        if not tensor.dtype.startswith('F8'):
            continue
        scale = found.get(f'{name}_scale_inv')
        wanted = tuple(
            -(-size // width)
            for size, width in zip(tensor.shape, block, strict=True)
        )
        if scale is None or scale.shape != wanted:
            there = None if scale is None else list(scale.shape)
            field = f'{name}_scale_inv'
            raise ConfigError(field, there, f'of the shape {list(wanted)}')

        def read(tensor=tensor, scale=scale):
            return dequantize_blocks(tensor.read(), scale.read(), tuple(block))

        stored = (name, f'{name}_scale_inv')
        joined[name] = Tensor('fp8', tensor.shape, read, stored)
    return joined


def _mxfp4(found, given):
    del given
    joined = {}
    for name, tensor in found.items():
        if name.endswith('_scales'):
            if name.removesuffix('scales') + 'blocks' not in found:
                raise ConfigError(name, tensor.dtype, 'beside its blocks')
            continue
        if not name.endswith('_blocks'):
            joined[name] = tensor
            continue
        plain = name.removesuffix('_blocks')
        scale = found.get(f'{plain}_scales')
        if scale is None or scale.shape != tensor.shape[:-1]:
            there = None if scale is None else list(scale.shape)
            wanted = f'of the shape {list(tensor.shape[:-1])}'
            raise ConfigError(f'{plain}_scales', there, wanted)
        *lead, groups, width = tensor.shape
        shape = (*lead[:-1], 2 * groups * width, lead[-1])

        def read(tensor=tensor, scale=scale):
            # Its rows are outputs; a plain file has the inputs first.
            values = dequantize_mxfp4(tensor.read(), scale.read())
            return np.swapaxes(values, -1, -2)

        stored = (name, f'{plain}_scales')
        joined[plain] = Tensor('mxfp4', shape, read, stored)
    return joined

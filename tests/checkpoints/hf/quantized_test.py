import itertools
import math

import ml_dtypes
import numpy as np
import pytest

from moe.checkpoints.hf.files import Planned, find_tensors, write_tensors
from moe.checkpoints.hf.quantized import (
    E2M1,
    as_meant,
    dequantize_blocks,
    dequantize_mxfp4,
)
from moe.config import ConfigError

FP8 = {
    'quant_method': 'fp8',
    'fmt': 'e4m3',
    'activation_scheme': 'dynamic',
    'weight_block_size': [128, 128],
}


def quantize_blocks(matrix, block):
    """Packs as DeepSeek-V3 says: each block's greatest is E4M3's, 448."""
    rows, columns = (
        math.ceil(n / b) for n, b in zip(matrix.shape, block, strict=True)
    )
    values = np.zeros(matrix.shape, ml_dtypes.float8_e4m3fn)
    scales = np.zeros((rows, columns), np.float32)
    for i, j in itertools.product(range(rows), range(columns)):
        at = (
            slice(i * block[0], (i + 1) * block[0]),
            slice(j * block[1], (j + 1) * block[1]),
        )
        scales[i, j] = np.abs(matrix[at]).max() / 448
        values[at] = (matrix[at] / scales[i, j]).astype(values.dtype)
    return values, scales


def write(folder, arrays):
    planned = [
        Planned(n, x.shape, x.dtype, lambda x=x: x) for n, x in arrays.items()
    ]
    write_tensors(folder, planned, 10**9)
    return find_tensors(folder)


def test_blocks_are_multiplied_with_their_scales():
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((130, 300)).astype(np.float32)
    matrix[:, 256:] *= 1e-3
    values, scales = quantize_blocks(matrix, (128, 128))
    found = dequantize_blocks(values, scales)
    for i, j in itertools.product(range(130), range(300)):
        wanted = np.float32(values[i, j]) * scales[i // 128, j // 128]
        assert found[i, j] == wanted
    # Three bits of mantissa: half of 2^-3 relative, or of the least step.
    step = np.repeat(np.repeat(scales, 128, 0), 128, 1)[:130, :300] * 2**-9
    assert np.all(
        np.abs(found - matrix) <= np.maximum(2**-4 * np.abs(matrix), step)
    )


def test_codes_of_e2m1_are_sign_exponent_and_mantissa():
    for code in range(16):
        sign, exponent, mantissa = code >> 3, code >> 1 & 3, code & 1
        if exponent:
            value = 2.0 ** (exponent - 1) * (1 + mantissa / 2)
        else:
            value = mantissa / 2
        assert E2M1[code] == (-value if sign else value)
        assert np.signbit(E2M1[code]) == bool(sign)


def pack_mxfp4(codes, exponents):
    """Packs codes [..., G, 32] as the specification and gpt-oss say."""
    low, high = codes[..., 0::2], codes[..., 1::2]
    return (low | high << 4).astype(np.uint8), exponents.astype(np.uint8)


def test_mxfp4_unpacks_what_was_packed():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 16, (2, 3, 2, 32))
    exponents = rng.integers(120, 135, (2, 3, 2))
    exponents[0, 0, 0] = 0
    found = dequantize_mxfp4(*pack_mxfp4(codes, exponents))
    assert found.shape == (2, 3, 64)
    for at in np.ndindex(codes.shape):
        wanted = float(E2M1[codes[at]]) * 2.0 ** (exponents[at[:3]] - 127.0)
        assert found[(*at[:2], at[2] * 32 + at[3])] == np.float32(wanted)


def test_fp8_files_have_the_tensors_of_plain_ones(tmp_path):
    rng = np.random.default_rng(2)
    matrix = rng.standard_normal((150, 40)).astype(np.float32)
    values, scales = quantize_blocks(matrix, (128, 128))
    norm = np.ones(4, ml_dtypes.bfloat16)
    stored = write(
        tmp_path,
        {'a.weight': values, 'a.weight_scale_inv': scales, 'b.weight': norm},
    )
    found = as_meant(stored, FP8)
    assert {n: t.shape for n, t in found.items()} == {
        'a.weight': (150, 40),
        'b.weight': (4,),
    }
    wanted = dequantize_blocks(values, scales)
    assert found['a.weight'].read().tolist() == wanted.tolist()
    assert found['b.weight'].dtype == 'BF16'


def test_mxfp4_files_have_inputs_before_outputs(tmp_path):
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 16, (2, 6, 1, 32))  # E, 2F, groups of D
    blocks, scales = pack_mxfp4(codes, np.full((2, 6, 1), 126))
    name = 'model.layers.0.mlp.experts.gate_up_proj'
    stored = write(
        tmp_path, {f'{name}_blocks': blocks, f'{name}_scales': scales}
    )
    found = as_meant(stored, {'quant_method': 'mxfp4'})
    assert {n: t.shape for n, t in found.items()} == {name: (2, 32, 6)}
    values = found[name].read()
    assert values[1, 5, 2] == E2M1[codes[1, 2, 0, 5]] / 2


@pytest.mark.parametrize(
    ('arrays', 'given', 'line'),
    [
        (
            {'a.weight': np.zeros((4, 4), ml_dtypes.float8_e4m3fn)},
            None,
            'no float8 without a quantization_config',
        ),
        (
            {'a.weight': np.zeros((4, 4), ml_dtypes.float8_e4m3fn)},
            FP8,
            r'a.weight_scale_inv = None: must be of the shape \[1, 1\]',
        ),
        (
            {'a.weight_scale_inv': np.zeros((1, 1), np.float32)},
            FP8,
            'beside its weight',
        ),
        (
            {'a_blocks': np.zeros((2, 3, 16), np.uint8)},
            {'quant_method': 'mxfp4'},
            'a_scales = None: must be of the shape',
        ),
        ({}, {'quant_method': 'gptq'}, "'gptq': must be 'fp8' or 'mxfp4'"),
        ({}, {'quant_method': 'fp8'}, 'rows and columns of a block'),
    ],
)
def test_what_is_not_known_is_refused(tmp_path, arrays, given, line):
    arrays['x'] = np.zeros(1, np.float32)
    with pytest.raises(ConfigError, match=line):
        as_meant(write(tmp_path, arrays), given)

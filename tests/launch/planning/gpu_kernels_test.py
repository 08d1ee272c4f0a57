"""Kernels on NVIDIA GPUs, counted by hand."""

import math

import pytest

from launch.planning import cost, hlo

CALL = """\
ENTRY %main () -> {result} {{
{parameters}
  ROOT %kernel = {result} custom-call({names}), {more}
}}
"""


def count(target, result, operands, more='', rows=math.inf):
    """The cost of one call; arrays like 'bf16[2,3]'."""
    names = [f'%p{i}' for i in range(len(operands))]
    lines = [
        f'  {name} = {shape} parameter({i})'
        for i, (name, shape) in enumerate(zip(names, operands, strict=True))
    ]
    text = CALL.format(
        result=result,
        parameters='\n'.join(lines),
        names=', '.join(names),
        more=f'custom_call_target="{target}"{more}',
    )
    return cost.count(hlo.parse(text), rows)


@pytest.mark.parametrize('target', ['__cublas$gemm', '__cublas$lt$matmul'])
def test_products_of_cublas(target):
    # Three of [4, 8] by [16, 8], turned: 2 * 3 * 4 * 16 * 8 FLOPs. What it
    # works in is not written for others.
    found = count(
        target,
        '(bf16[3,4,16]{2,1,0}, s8[4194304]{0})',
        ['bf16[3,4,8]', 'bf16[3,16,8]'],
        ', backend_config={"gemm_backend_config":{"dot_dimension_numbers":'
        '{"lhs_contracting_dimensions":["2"],"rhs_contracting_dimensions":'
        '["2"],"lhs_batch_dimensions":["0"]}}}',
    )
    assert found.flops == 2 * 3 * 4 * 16 * 8
    assert found.flops_once == 0
    assert found.bytes == 2 * 3 * (4 * 8 + 16 * 8 + 4 * 16)


# 2 sequences of 512 positions, 4 query and 2 key heads, 32 wide: a product of
# all scores is 2 * 2 * 4 * 512 * 512 * 32 = 2^27 FLOPs. Of 4 x 4 blocks of 128
# positions a causal mask leaves 10.
@pytest.mark.parametrize(
    ('backward', 'mask', 'flops'),
    [
        (False, 'CAUSAL', 2 * 10 / 16 * 2**27),
        (True, 'CAUSAL', 5 * 10 / 16 * 2**27),
        (False, 'NO_MASK', 2 * 2**27),
        (True, 'PADDING_CAUSAL', 5 * 10 / 16 * 2**27),
    ],
)
def test_attention_of_cudnn(backward, mask, flops):
    query, key, sums = 'bf16[2,512,4,32]', 'bf16[2,512,2,32]', 'f32[2,4,512]'
    config = (
        ', backend_config={"cudnn_fmha_backend_config": {"algorithm": '
        '{"algo_id": "0"}, "intermediate_tensor_shape": {"element_type": '
        '"BF16", "dimensions": ["2", "4", "512", "512"], "tuple_shapes": []}, '
        f'"mask_type": "{mask}"}}}}'
    )
    of_query, of_key = 2 * 2 * 512 * 4 * 32, 2 * 2 * 512 * 2 * 32
    if backward:
        found = count(
            '__cudnn$fmhaSoftmaxBackward',
            f'({query}, {key}, {key}, u8[0]{{0}})',
            [query, key, key, sums, query, query],
            config,
        )
        moved = 4 * of_query + 4 * of_key + 4 * 2 * 4 * 512
    else:
        found = count(
            '__cudnn$fmhaSoftmax',
            f'({query}, {sums}, u8[1024]{{0}})',
            [query, key, key],
            config,
        )
        moved = 2 * of_query + 2 * of_key + 4 * 2 * 4 * 512
    assert found.flops == flops
    assert found.bytes == moved


# 8 images of 32 x 32 x 3 in patches of 4 x 4, 64 features: each of 8 * 8 * 8
# places is 2 * 48 * 64 FLOPs; the gradients have as many products.
@pytest.mark.parametrize(
    ('target', 'result', 'operands'),
    [
        ('Forward', 'out', ['image', 'filter']),
        ('BiasActivationForward', 'out', ['image', 'filter', 'bias']),
        ('BackwardInput', 'image', ['out', 'filter']),
        ('BackwardFilter', 'filter', ['image', 'out']),
    ],
)
def test_convolutions_of_cudnn(target, result, operands):
    shapes = {
        'image': 'f32[8,32,32,3]',
        'filter': 'f32[64,4,4,3]',
        'out': 'f32[8,8,8,64]',
        'bias': 'f32[64]',
    }
    found = count(
        f'__cudnn$conv{target}',
        f'({shapes[result]}, u8[0]{{0}})',
        [shapes[name] for name in operands],
        ', window={size=4x4 stride=4x4}, dim_labels=b01f_o01i->b01f',
    )
    assert found.flops == 8 * 8 * 8 * 2 * 48 * 64


def of_kernel(name):
    return f', metadata={{op_name="jit(f)/block_0/moe/{name}/mpmd_map"}}'


# Of 64 rows 8 wide, 16 matrices [8, 32]; with 48 of the rows in groups, 3/4 of
# the rows are read, multiplied and written.
@pytest.mark.parametrize('rows', [48, math.inf, 64])
@pytest.mark.parametrize('weights', ['bf16[16,8,32]', 'bf16[16,32,8]'])
def test_rows_by_group(rows, weights):
    found = count(
        'mosaic_gpu_v2',
        'bf16[64,32]',
        ['s32[96]', 's32[1]', 'bf16[64,8]', weights],
        of_kernel('moe_grouped_rows'),
        rows,
    )
    filled = min(rows, 64)
    assert found.flops == 2 * filled * 8 * 32
    assert found.bytes == 2 * (filled * (8 + 32) + 16 * 8 * 32) + 4 * 97
    assert set(found.parts) == {'moe, forward'}


@pytest.mark.parametrize('rows', [48, 64])
def test_products_that_are_summed(rows):
    found = count(
        'mosaic_gpu_v2',
        'bf16[64,32]',
        ['s32[96]', *['bf16[64,8]'] * 2, *['bf16[16,8,32]'] * 2],
        of_kernel('moe_grouped_rows'),
        rows,
    )
    assert found.flops == 2 * 2 * rows * 8 * 32
    assert found.bytes == 2 * (rows * (16 + 32) + 2 * 16 * 8 * 32) + 4 * 96


@pytest.mark.parametrize('rows', [48, 64])
def test_gradients_by_group(rows):
    found = count(
        'mosaic_gpu_v2',
        'bf16[16,8,32]',
        ['s32[16]', 's32[16]', 'bf16[64,8]', 'bf16[64,32]'],
        of_kernel('moe_grouped_outer'),
        rows,
    )
    assert found.flops == 2 * rows * 8 * 32
    assert found.bytes == 2 * (rows * (8 + 32) + 16 * 8 * 32) + 4 * 32


def test_an_unknown_kernel_counts_nothing():
    found = count(
        'mosaic_gpu_v2', 'bf16[4]', ['bf16[4]', 'bf16[4]'], of_kernel('other')
    )
    assert (found.flops, found.bytes) == (0, 24)


@pytest.mark.parametrize('target', ['__cublas$gemm', '__cudnn$fmhaSoftmax'])
def test_what_cannot_be_counted_is_refused(target):
    with pytest.raises(hlo.HLOError, match='kernel: no'):
        count(target, 'bf16[4,4]', ['bf16[4,4]', 'bf16[4,4]'])

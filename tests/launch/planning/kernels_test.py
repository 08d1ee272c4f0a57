"""Kernels that the compiler does not look into, counted by hand."""

import pytest

from launch.planning import cost, hlo

# 2 sequences of 256 positions, 4 query and 2 key heads, 32 wide, in 2 x 2
# blocks of scores. The attributes go on over lines, as the kernel's own do.
QUERY, KEY = 'bf16[2,4,256,32]', 'bf16[2,2,256,32]'
KERNEL = """\
ENTRY %main () -> bf16[2,4,256,32] {{
{parameters}
  ROOT %kernel = bf16[2,4,256,32]{{3,2,1,0}} custom-call({names}), custom_call_target="tpu_custom_call", frontend_attributes={{kernel_metadata={{
"xprof_metadata":"{{\\"block_q\\": 128}}"
}}}}, metadata={{op_name="jit(f)/block_0/attention/splash_mha_{phase}/pallas_call"}}
}}
"""


def program(phase, causal):
    shapes = ['s8[1,2,2]', 's8[1,2,2]', QUERY, KEY, KEY]
    if phase != 'fwd':
        shapes += ['f32[2,4,1,256]', QUERY, 'f32[2,4,1,256]']
    shapes += ['s32[256,128]'] if causal else []
    names = [f'%p{i}' for i in range(len(shapes))]
    lines = [
        f'  {name} = {shape} parameter({i})'
        for i, (name, shape) in enumerate(zip(names, shapes, strict=True))
    ]
    return KERNEL.format(
        parameters='\n'.join(lines), names=', '.join(names), phase=phase
    )


# A product of all scores is 2 * (2 * 4) * 256 * 256 * 32 = 2^25 FLOPs, of the
# 3 of 4 blocks that a causal mask leaves 3/4 of it. Queries are 2^17 bytes,
# keys and values half each. For each of its 4 query heads a kernel reads what
# streams by once for each row of blocks that sees it: 1.5 of 2, or both.
@pytest.mark.parametrize(
    ('phase', 'causal', 'flops', 'streamed'),
    [
        ('fwd', True, 2 * 0.75 * 2**25, 1.5 * 2 * 2**17 - 2**17),
        ('dq', True, 3 * 0.75 * 2**25, 1.5 * 2 * 2**17 - 2**17),
        ('dkv', True, 4 * 0.75 * 2**25, 1.5 * 2 * 2**17 - 2 * 2**17),
        ('fwd', False, 2 * 2**25, 2 * 2 * 2**17 - 2**17),
    ],
)
def test_fused_attention(phase, causal, flops, streamed):
    found = cost.count(hlo.parse(program(phase, causal)))
    # Beside it every operand once, and the output.
    once = 2 * 4 + 2 * 2**17 + 2 * 2**16
    once += 0 if phase == 'fwd' else 2 * 4 * 2 * 256 * 4 + 2**17
    once += 256 * 128 * 4 if causal else 0
    assert found.flops == flops
    assert found.flops_once == 0  # the compiler does not count it
    assert found.bytes == once + streamed
    assert set(found.parts) == {'attention, forward'}

"""Grouped products on TPUs, counted from their tiles."""

from launch.planning import cost, hlo


def test_grouped_products():
    # 512 rows in tiles, with matrices of 4 groups, state 1,000 bytes more than
    # to read and write everything once.
    once = 2 * (512 * 256 + 4 * 256 * 128 + 512 * 128)
    program = f"""\
ENTRY %main () -> bf16[512,128] {{
  %visits = s32[8]{{0}} parameter(0)
  %x = bf16[512,256]{{1,0}} parameter(1)
  %w = bf16[4,256,128]{{2,1,0}} parameter(2)
  ROOT %k = bf16[512,128]{{1,0}} custom-call(%visits, %x, %w), custom_call_target="tpu_custom_call", metadata={{op_name="jit(f)/grouped_products/pallas_call"}}, backend_config={{"cost_estimate":{{"flops":"77","bytes_accessed":"{once + 1000}"}}}}
}}
"""
    found = cost.count(hlo.parse(program))
    assert found.flops == found.flops_once == 77
    assert found.bytes == 4 * 8 + once + 1000


def test_native_ragged_dot():
    # Tiles of 128 rows and 640 columns: 8 tiles of rows and 3 visits more for
    # 4 groups, 768 columns as 1,280. It states the products of its shapes.
    program = """\
ENTRY %main () -> f32[1024,768] {
  %x = bf16[1024,512]{1,0} parameter(0)
  %w = bf16[4,512,768]{2,1,0} parameter(1)
  ROOT %k = f32[1024,768]{1,0} custom-call(%x, %w), custom_call_target="tpu_custom_call", frontend_attributes={ragged_dot_tiling="128,512,640"}, backend_config={"cost_estimate":{"flops":"805306368"}}
}
"""
    found = cost.count(hlo.parse(program))
    assert found.flops_once == 2 * 1024 * 512 * 768
    assert found.flops == 2 * (8 + 3) * 128 * 512 * 1280
    # Rows are read for each of two columns of tiles.
    x, w, y = 2 * 1024 * 512, 2 * 4 * 512 * 768, 4 * 1024 * 768
    assert found.bytes == 2 * x + w + y


def test_masked_product():
    # 4 groups of 1,024 rows in 8 blocks: 8 + 3 of the 32 are computed.
    program = """\
%inner (a: bf16[1024,16], b: bf16[1024,32]) -> bf16[4,16,32] {
  %a = bf16[1024,16]{1,0} parameter(0)
  %b = bf16[1024,32]{1,0} parameter(1)
  %as = bf16[4,1024,16]{2,1,0} broadcast(%a), dimensions={1,2}
  %bs = bf16[4,1024,32]{2,1,0} broadcast(%b), dimensions={1,2}
  ROOT %c = bf16[4,16,32]{2,1,0} dot(%as, %bs), lhs_batch_dims={0}, rhs_batch_dims={0}, lhs_contracting_dims={1}, rhs_contracting_dims={1}
}

ENTRY %main () -> bf16[4,16,32] {
  %x = bf16[1024,16]{1,0} parameter(0)
  %dy = bf16[1024,32]{1,0} parameter(1)
  ROOT %f = bf16[4,16,32]{2,1,0} fusion(%x, %dy), kind=kOutput, calls=%inner, backend_config={"window_config":{"iteration_bounds":["4","1","1","1","8"]},"mask_aggregator_config":{"iteration_skipper_mode":"ITERATION_SKIPPER_MODE_ITERATION_INDICES"}}
}
"""
    found = cost.count(hlo.parse(program))
    dense = 2 * 4 * 1024 * 16 * 32
    assert found.flops_once == dense
    assert found.flops == dense * 11 / 32


def test_empty_rows_of_a_buffer():
    # Of 1,024 rows 256 are filled: a fourth of the rows, of the tiles of rows,
    # and of the blocks, beside what the ends of groups add.
    once = 2 * (1024 * 256 + 4 * 256 * 128 + 1024 * 128)
    full = 2 * (1024 + 4 * 16) * 256 * 128
    ours = f"""\
ENTRY %main () -> bf16[1024,128] {{
  %x = bf16[1024,256]{{1,0}} parameter(0)
  %w = bf16[4,256,128]{{2,1,0}} parameter(1)
  ROOT %k = bf16[1024,128]{{1,0}} custom-call(%x, %w), custom_call_target="tpu_custom_call", metadata={{op_name="jit(f)/grouped_products/pallas_call"}}, backend_config={{"cost_estimate":{{"flops":"{full}","bytes_accessed":"{once}"}}}}
}}
"""
    found = cost.count(hlo.parse(ours), rows=256)
    assert found.flops == 2 * (256 + 4 * 16) * 256 * 128
    assert found.bytes == once
    native = """\
ENTRY %main () -> f32[1024,768] {
  %x = bf16[1024,512]{1,0} parameter(0)
  %w = bf16[4,512,768]{2,1,0} parameter(1)
  ROOT %k = f32[1024,768]{1,0} custom-call(%x, %w), custom_call_target="tpu_custom_call", frontend_attributes={ragged_dot_tiling="128,512,768"}, backend_config={"cost_estimate":{"flops":"805306368"}}
}
"""
    found = cost.count(hlo.parse(native), rows=256)
    assert found.flops == 2 * (2 + 3) * 128 * 512 * 768

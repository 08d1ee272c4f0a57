"""Programs as text: shapes, loops, groups, and what one run costs."""

import math

import pytest

from launch.planning import cost, hlo

# Three trips of: a slice of stacked weights, a product with it, a reduction
# over pairs of four devices; then one gather of the result over all.
LOOP = """\
HloModule tiny, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused (p0: bf16[3,8,16], p1: s32[]) -> bf16[1,8,16] {
  %p0 = bf16[3,8,16]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  %zero = s32[] constant(0)
  ROOT %slice = bf16[1,8,16]{2,1,0} dynamic-slice(%p0, %p1, %zero, %zero), dynamic_slice_sizes={1,8,16}
}

%condition (state: (s32[], bf16[4,8], bf16[3,8,16], f32[4,16])) -> pred[] {
  %bound = s32[]{:T(128)} constant(3)
  %state = (s32[], bf16[4,8], bf16[3,8,16], /*index=3*/f32[4,16]) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %bound), direction=LT
}

%body (state.1: (s32[], bf16[4,8], bf16[3,8,16], f32[4,16])) -> (s32[], bf16[4,8], bf16[3,8,16], f32[4,16]) {
  %state.1 = (s32[], bf16[4,8], bf16[3,8,16], /*index=3*/f32[4,16]) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %x = bf16[4,8]{1,0:T(8,128)S(1)} get-tuple-element(%state.1), index=1
  %w = bf16[3,8,16]{2,1,0} get-tuple-element(%state.1), index=2
  %mine = bf16[1,8,16]{2,1,0} fusion(%w, %i.1), kind=kLoop, calls=%fused
  %flat = bf16[8,16]{1,0} bitcast(%mine)
  %y = f32[4,16]{1,0} dot(%x, %flat), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %all = f32[4,16]{1,0} all-reduce(%y), channel_id=1, replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %next = (s32[], bf16[4,8], bf16[3,8,16], f32[4,16]) tuple(%i.1, %x, %w, %all)
}

ENTRY %main (x.1: bf16[4,8], w.1: bf16[3,8,16]) -> f32[16,16] {
  %x.1 = bf16[4,8]{1,0:T(8,128)S(1)} parameter(0)
  %w.1 = bf16[3,8,16]{2,1,0} parameter(1)
  %start = s32[] constant(0)
  %empty = f32[4,16]{1,0} constant({...})
  %first = (s32[], bf16[4,8], bf16[3,8,16], f32[4,16]) tuple(%start, %x.1, %w.1, %empty)
  %loop = (s32[], bf16[4,8], bf16[3,8,16], f32[4,16]) while(%first), condition=%condition, body=%body
  %last = f32[4,16]{1,0} get-tuple-element(%loop), index=3
  ROOT %gathered = f32[16,16]{1,0} all-gather(%last), channel_id=2, replica_groups=[1,4]<=[4], dimensions={0}
}
"""


def test_a_loop_counts_as_often_as_it_runs():
    found = cost.count(hlo.parse(LOOP))
    # A product of [4,8] and [8,16]: 2 * 4 * 16 * 8 = 1024, three times.
    assert found.flops_once == 1024
    assert found.flops == 3 * 1024
    # A trip, in bytes: the index 4 and the slice read, the slice written,
    # 2 * 8 * 16 = 256 each, not the stack; the product reads the slice, and x
    # not from the HBM, and writes 4 * 4 * 16 = 256; the reduction reads and
    # writes that. The gather at the end reads 256 and writes 4 * 16 * 16.
    assert found.bytes == 3 * (4 + 256 + 256 + 256 + 256 + 512) + 256 + 1024
    assert {(c.kind, c.bytes, c.times) for c in found.collectives} == {
        ('all-reduce', 256, 3),
        ('all-gather', 256, 1),
    }


def test_parts_by_the_names_of_modules():
    names = {
        'jit(f)/jvp(LM)/while/block_0/moe/experts/dot': 'moe, forward',
        'jit(f)/transpose(jvp(LM))/block_1/attention/dot': 'attention, backward',
        'jit(f)/transpose(jvp(LM))/rematted_computation/block_0/moe/dot': 'moe, recomputed',
        'jit(f)/jvp(LM)/head/dot': 'head, forward',
        'jit(f)/transpose(jvp(LM))/stack/while/body/slice': 'stack, backward',
        'jit(f)/jvp(LM)/mul': 'rest of the model, forward',
        'jit(f)/transpose(jvp(LM.further))/LM._run/head/dot': 'head, backward',
        'jit(f)/transpose(jvp())/div': 'loss, backward',
        'jit(f)/add': 'update',
    }
    for path, expected in names.items():
        metadata = f'calls=%fused, metadata={{op_name="{path}"}}'
        text = LOOP.replace('calls=%fused', metadata)
        assert cost.count(hlo.parse(text)).parts[expected][1] >= 3 * 516


@pytest.mark.parametrize(
    ('before', 'after'),
    [
        ('direction=LT', 'direction=NE'),
        ('%bound = s32[]{:T(128)} constant(3)', '%bound = s32[] parameter(1)'),
    ],
)
def test_a_loop_without_a_count_is_refused(before, after):
    with pytest.raises(hlo.HLOError, match='loop loop: no trip count'):
        cost.count(hlo.parse(LOOP.replace(before, after)))


def test_a_known_trip_count_is_believed():
    loop = 'body=%body, backend_config={"known_trip_count":{"n":"5"}}'
    program = hlo.parse(LOOP.replace('body=%body', loop))
    assert cost.count(program).flops == 5 * 1024


def test_text_without_an_entry_is_refused():
    with pytest.raises(hlo.HLOError, match='no entry'):
        hlo.parse(LOOP.replace('ENTRY ', ''))


@pytest.mark.parametrize(
    ('rows', 'sent'), [(math.inf, 2 * 6 * 8), (6, 2 * 6 * 8), (4, 2 * 4 * 8)]
)
@pytest.mark.parametrize('sizes', [(6, 24), (24, 6)])
def test_rows_without_their_room(sizes, rows, sent):
    # 6 rows are sent into room for 24, or back; of them `rows` are filled.
    before, after = (f'bf16[{size},8]' for size in sizes)
    text = f"""\
HloModule one

ENTRY %main () -> {after} {{
  %x = {before} parameter(0)
  %room = {after} parameter(1)
  %n = s32[4] parameter(2)
  %start = (({before}, {after}, s32[4], s32[4], s32[4], s32[4]), {after}) ragged-all-to-all-start(%x, %room, %n, %n, %n, %n), replica_groups={{{{0,1}}}}
  ROOT %done = {after} ragged-all-to-all-done(%start)
}}
"""
    found = cost.count(hlo.parse(text), rows)
    assert [one.bytes for one in found.collectives] == [sent]
    assert found.bytes == 2 * sent  # read, and written


ALL = [0, 1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ('groups', 'first'),
    [
        ('{{0,1},{2,3},{4,5},{6,7}}', [0, 1]),
        ('{}', ALL),
        ('[2,4]<=[8]', [0, 1, 2, 3]),
        # 0..7 as [2,4], transposed to [4,2]: 0 4, 1 5, 2 6, 3 7.
        ('[4,2]<=[2,4]T(1,0)', [0, 4]),
        ("mesh['a'=8] {'a'}", ALL),
        # Row-major places of the mesh: b moves by one, a by four.
        ("mesh['a'=2,'b'=4] {'a'}", [0, 4]),
        ("mesh['a'=2,'b'=4] {'b'}", [0, 1, 2, 3]),
        ("mesh['a'=2,'b'=4] {'a','b'}", ALL),
        # Devices 0 4 1 5 2 6 3 7 laid out as [2,4]: the first row.
        ("mesh['a'=2,'b'=4], device_ids=([2,4]T(1,0)) {'b'}", [0, 1, 4, 5]),
        ("mesh['a'=2,'b'=4], device_ids=(7,6,5,4,3,2,1,0) {'b'}", [0, 1, 2, 3]),
        # The second half of b's four: pairs of neighbours.
        ("mesh['a'=2,'b'=4] {'b':(2)2}", [0, 1]),
        ("mesh['a'=2,'b'=4] {'b':(1)2}", [0, 2]),
    ],
)
def test_groups(groups, first):
    found = hlo.groups_of(f', replica_groups={groups}, to_apply=%add', 8)
    assert found[0] == first
    # Every device once.
    assert sorted(device for group in found for device in group) == ALL
    assert {len(group) for group in found} == {len(first)}


@pytest.mark.parametrize(
    'groups',
    [
        '{{1,5},{0,4},{2,6},{3,7}}',
        '[4,2]<=[2,4]T(1,0)',
        "mesh['a'=2,'b'=4] {'a'}",
        "mesh['a'=8] {'a':(1)2}",
    ],
)
def test_every_group(groups):
    found = hlo.groups_of(f', replica_groups={groups}', 8)
    assert found == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_groups_of_a_permutation_are_its_cycles():
    pairs = ', source_target_pairs={{0,2},{2,4},{4,0},{1,3},{3,1}}'
    assert hlo.groups_of(pairs, 8) == [[0, 2, 4], [1, 3]]


def test_a_permutation_that_ends_is_of_all_it_reaches():
    pairs = ', source_target_pairs={{0,2},{2,4},{1,3}}'
    assert hlo.groups_of(pairs, 8) == [[0, 2, 4], [1, 3]]


def test_groups_of_another_mesh_are_refused():
    with pytest.raises(hlo.HLOError, match='replica groups'):
        hlo.groups_of(", replica_groups=mesh['a'=4] {'a'}", 8)


@pytest.mark.parametrize(
    ('group', 'axes'),
    [
        ([0, 1], ('expert',)),
        ([0, 2, 4, 6], ('fsdp',)),
        (ALL, ('fsdp', 'expert')),
        ([3], ()),
    ],
)
def test_axes_of_a_group(group, axes):
    assert hlo.axes_of(group, {'data': 1, 'fsdp': 4, 'expert': 2}) == axes


@pytest.mark.parametrize(
    ('line', 'flops'),
    [
        # [4,8] by [8,16].
        ('bf16[4,16] ; bf16[4,8] ; bf16[8,16] ; dim_labels=bf_io->bf', 1024),
        # A batch of 3 products as a window of which one place is no hole.
        (
            'bf16[3,4,16] ; bf16[3,4,8] ; bf16[3,8,16] ; '
            'window={size=3 stride=2 lhs_dilate=3}, dim_labels=0bf_0io->0bf',
            3 * 1024,
        ),
        # Heads as a window: [4,8] by [8, 2 heads, 16]; of the 1 + 2 * 1 places
        # each output meets one.
        (
            'bf16[4,2,16] ; bf16[4,1,8] ; bf16[2,8,16] ; '
            'window={size=2 pad=1_1 rhs_reversal=1}, dim_labels=b0f_0io->b0f',
            2 * 1024,
        ),
    ],
)
def test_products_as_convolutions(line, flops):
    out, left, right, attributes = line.split(' ; ')
    text = f"""\
HloModule one

ENTRY %main (l: {left}, r: {right}) -> {out} {{
  %l = {left} parameter(0)
  %r = {right} parameter(1)
  ROOT %c = {out} convolution(%l, %r), {attributes}
}}
"""
    assert cost.count(hlo.parse(text)).flops == flops


def test_kernels_say_their_own_products():
    text = """\
HloModule one

ENTRY %main (l: bf16[4,8]) -> f32[4,8] {
  %l = bf16[4,8]{1,0} parameter(0)
  ROOT %k = f32[4,8]{1,0} custom-call(%l), custom_call_target="tpu_custom_call", backend_config={"cost_estimate":{"flops":"640"}}
}
"""
    found = cost.count(hlo.parse(text))
    assert found.flops == 640
    assert found.bytes == 64 + 128  # 2 * 32 read, 4 * 32 written

import numpy as np
import pytest

from moe.checkpoints.hf.tensors import LINEAR, TABLE, VECTOR, Layout

HEADS_IN, HEADS_OUT = Layout(outputs=2), Layout(inputs=2)
CASES = {
    'linear': (LINEAR, [(3, 5)], (5, 3)),
    'table': (TABLE, [(7, 3)], (7, 3)),
    'vector': (VECTOR, [(3,)], (3,)),
    'heads in': (HEADS_IN, [(3, 2, 4)], (8, 3)),
    'heads out': (HEADS_OUT, [(2, 4, 3)], (3, 8)),
    'bias': (Layout(inputs=0, outputs=2), [(2, 4)], (8,)),
    'two halves': (LINEAR, [(6, 3, 5), (6, 3, 5)], (6, 10, 3)),
    'unequal': (LINEAR, [(3, 5), (3, 2)], (7, 3)),
    'an axis of one': (LINEAR, [(3, 5), (3, 1, 2)], (7, 3)),
    'by head': (HEADS_IN, [(3, 2, 4), (3, 2, 1)], (10, 3)),
    'alternating': (
        Layout(transposed=False, interleaved=True),
        [(6, 3, 5), (6, 3, 5)],
        (6, 3, 10),
    ),
    'alternating bias': (
        Layout(inputs=0, interleaved=True),
        [(6, 5), (6, 5)],
        (6, 10),
    ),
}


@pytest.mark.parametrize('case', CASES)
def test_layouts_split_what_they_join(case):
    layout, shapes, wanted = CASES[case]
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape) for shape in shapes]
    assert layout.shape(shapes) == wanted
    joined = layout.join(arrays)
    assert joined.shape == wanted
    for array, back in zip(arrays, layout.split(joined, shapes), strict=True):
        assert array.tolist() == back.tolist()


def test_a_linear_weight_has_outputs_first():
    ours = np.arange(6).reshape(2, 3)
    assert LINEAR.join([ours]).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_rows_of_a_published_projection_are_heads_after_each_other():
    ours = np.arange(24).reshape(2, 3, 4)  # D, H, h
    joined = HEADS_IN.join([ours])
    for head, column, width in np.ndindex(3, 4, 2):
        assert joined[head * 4 + column, width] == ours[width, head, column]


def test_columns_of_an_output_projection_are_heads_after_each_other():
    ours = np.arange(24).reshape(3, 4, 2)  # H, h, D
    joined = HEADS_OUT.join([ours])
    for head, column, width in np.ndindex(3, 4, 2):
        assert joined[width, head * 4 + column] == ours[head, column, width]


def test_halves_are_the_first_and_the_second():
    gate, up = np.zeros((2, 3)), np.ones((2, 3))
    assert LINEAR.join([gate, up])[:, 0].tolist() == [0, 0, 0, 1, 1, 1]


def test_keys_and_values_of_a_head_are_next_to_each_other():
    key, value = np.zeros((1, 2, 2)), np.ones((1, 2, 1))
    assert HEADS_IN.join([key, value])[:, 0].tolist() == [0, 0, 1, 0, 0, 1]


def test_columns_alternate():
    gate, up = np.zeros((1, 2)), np.ones((1, 2))
    layout = Layout(transposed=False, interleaved=True)
    assert layout.join([gate, up]).tolist() == [[0, 1, 0, 1]]

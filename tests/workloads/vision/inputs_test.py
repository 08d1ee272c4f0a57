"""Images to predict: how they were prepared, in which batches they come."""

import numpy as np
import pytest
from PIL import Image

from moe.config import ConfigError
from moe.workloads.vision.data.standard import Standard
from moe.workloads.vision.inputs import (
    Inputs,
    LeftOut,
    Preparation,
    list_inputs,
)

COLOURS = Preparation(
    Standard(np.array([0.5, 0.25, 0.0]), np.array([0.5, 0.125, 2.0])),
    center=0.5,
    classes=('cat', 'dog'),
)


def test_preparation_travels_in_the_run_s_folder(tmp_path):
    COLOURS.write(tmp_path)
    again = Preparation.read(tmp_path)
    assert (again.center, again.classes) == (0.5, ('cat', 'dog'))
    np.testing.assert_array_equal(again.standard.mean, [0.5, 0.25, 0.0])
    np.testing.assert_array_equal(again.standard.deviation, [0.5, 0.125, 2.0])


def test_every_class_has_a_name_of_its_own():
    named = lambda *classes: Preparation(COLOURS.standard, classes=classes)
    assert named().names(3) == ['0', '1', '2']
    assert named('2', 'a').names(4) == ['2', 'a', 'class 2', '3']
    assert named('a', 'b').names(1) == ['a']


def test_the_central_square_is_standardised_by_channel(tmp_path):
    # Of 4 x 8 pixels the central 2 x 2: columns 3 and 4, rows 1 and 2.
    image = np.zeros((4, 8, 3), np.uint8)
    image[1:3, 3:5] = [51, 255, 204]  # fifths of white: 1, 5, 4
    Image.fromarray(image).save(tmp_path / 'a.png')
    inputs = Inputs([str(tmp_path / 'a.png')], (2, 2, 3), COLOURS)
    (rows,) = inputs.batches(8, LeftOut(False))
    desired = [(0.2 - 0.5) / 0.5, (1 - 0.25) / 0.125, 0.8 / 2]
    assert rows.images.shape == (1, 2, 2, 3)
    np.testing.assert_allclose(
        rows.images, np.broadcast_to(desired, (1, 2, 2, 3)), rtol=1e-6
    )


def test_batches_number_all_images(tmp_path):
    # A file, five arrays of which one is not finite, and two files.
    plain = Preparation(Standard(np.zeros(1), np.ones(1)))
    x = np.arange(5.0)[:, None, None] * np.ones((5, 2, 2))
    x[3, 0, 0] = np.inf
    np.savez(tmp_path / 'b.npz', x=x)
    for name in ('a', 'c', 'd'):
        Image.fromarray(np.full((2, 2), 255, np.uint8)).save(
            tmp_path / f'{name}.png'
        )
    paths = list_inputs(str(tmp_path), '--input')
    left_out = LeftOut(True)
    found = list(Inputs(paths, (2, 2, 1), plain).batches(2, left_out))
    assert [rows.row for rows in found] == [[1], [2, 3], [4], [6], [7, 8]]
    values = [image[0, 0, 0] for rows in found for image in rows.images]
    assert values == [1, 0, 1, 2, 4, 1, 1]
    *_, line, last = left_out.lines()
    assert 'b.npz' in line
    assert 'pixels are all finite' in line
    assert last == '1 images left out'


def test_what_is_left_out_is_told():
    with pytest.raises(ConfigError, match="image = 'a': must be b"):
        LeftOut(False).leave_out('a', 'b')
    left_out = LeftOut(True)
    assert left_out.lines() == []
    for i in range(103):
        left_out.leave_out(f'{i}.png', 'an image')
    lines = left_out.lines()
    assert lines[0] == "image = '0.png': must be an image"
    assert lines[99:] == [
        "image = '99.png': must be an image",
        'and 3 more',
        '103 images left out',
    ]


def test_names_of_folders_and_globs(tmp_path):
    (tmp_path / 'deep').mkdir()
    for name in ('b.PNG', 'a.txt', 'deep/c.jpeg'):
        (tmp_path / name).write_text('')
    base = str(tmp_path)
    assert list_inputs(base, '') == [f'{base}/b.PNG', f'{base}/deep/c.jpeg']
    assert list_inputs(f'{base}/*.txt', '') == [f'{base}/a.txt']
    (tmp_path / 'none').mkdir()
    with pytest.raises(ConfigError, match='with images'):
        list_inputs(f'{base}/none', '--input')

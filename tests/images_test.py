"""Pictures of loads, read back by another decoder."""

import io

import numpy as np
from matplotlib import pyplot as plt

from moe import images


def pixels(picture):
    png, height, width = picture
    found = plt.imread(io.BytesIO(png), format='png')[..., :3]
    assert found.shape == (height, width, 3)
    return found


def test_picture():
    # Three experts from top to bottom: none, the uniform share, twice as much;
    # in the second column more than twice, and no number.
    loads = np.array([[0.0, 1.0, 2.0], [7.0, 1.0, np.nan]])
    found = pixels(images.load_picture(loads))
    rows = found[found.shape[0] // 6 :: found.shape[0] // 3]
    first, second = rows[:, 0], rows[:, -1]
    blue, white, red = np.array([[5, 48, 97], [255, 255, 255], [103, 0, 31]])
    np.testing.assert_allclose(255 * first[:3], [blue, white, red], atol=1)
    np.testing.assert_allclose(255 * second[:3], [red, white, blue], atol=1)


def test_many_experts_have_a_row_each():
    found = pixels(images.load_picture(np.ones((3, 300))))
    assert found.shape[0] == 300


def test_history():
    # A picture after 2, 4, 8, ... lines; of a long run every second line, then
    # every fourth is kept.
    history = images.LoadHistory()
    due = []
    for step in range(1000):
        line = {
            'moe/layer_1/load': [step / 1000, 1.0],
            'eval/moe/x/load': [1.0],
        }
        due += [step + 1] * len(history.add({**line, 'moe/layer_1/gate': [0]}))
    assert due == [2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert list(history.names()) == ['moe/layer_1/load']
    found = pixels(history.picture('moe/layer_1/load'))
    assert 128 <= found.shape[1] <= 256
    # The load of the first expert grows over the whole width.
    light = found[0].sum(axis=-1)
    assert light[-1] > light[0]
    assert np.all(np.diff(light) >= -1e-6)

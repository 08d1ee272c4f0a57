"""What the tasks of all transformers share."""

import numpy as np

from tests import tiny


def test_layer_metrics():
    four = tiny.parsed({'model.num_layers': 4, 'model.moe_every': 2})
    stats = {
        'entropy': np.array([0.25, 0.5], np.float32),
        'load': np.array([[1, 1], [2, 0]], np.float32),
    }
    assert four.make_task().layer_metrics(stats) == {
        'moe/layer_1/entropy': 0.25,
        'moe/layer_1/load': [1.0, 1.0],
        'moe/layer_3/entropy': 0.5,
        'moe/layer_3/load': [2.0, 0.0],
    }

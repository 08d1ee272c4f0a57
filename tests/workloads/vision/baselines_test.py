"""The baselines on the images of a run."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from moe.config import ConfigError
from moe.workloads.vision import baselines
from moe.workloads.vision.data.images import ImageConfig, Images, load_images


def images(**changes) -> Images:
    """Three images to train on, in three corners, and two to validate on."""
    train = np.float32([[[0, 0]], [[4, 0]], [[0, 4]]])[..., None]
    val = np.float32([[[3, 1]], [[1, 0]]])[..., None]
    values = {
        'train_x': train,
        'train_y': np.int32([2, 0, 1]),
        'val_x': val,
        'val_y': np.int32([0, 1]),
        'num_classes': 3,
        'fingerprint': '',
    }
    return Images(**{**values, **changes})


def test_nearest_by_hand():
    # (3, 1) is 2 from (4, 0), whose label is 0, and 10 and 18 from the others;
    # (1, 0) is 1 from (0, 0), whose label is 2; (2, 2) is 8 from all three,
    # of which the first counts.
    train = np.float64([[0, 0], [4, 0], [0, 4]])
    val = np.float64([[3, 1], [1, 0], [2, 2]])
    guess = baselines.nearest(train, np.int32([2, 0, 1]), val)
    np.testing.assert_array_equal(guess, [0, 2, 2])
    assert baselines.baselines(images())[baselines.NEAREST] == 1 / 2


def test_nearest_in_blocks():
    # As many as three blocks, against every distance in one array.
    draw = np.random.default_rng(0)
    train, val = draw.normal(size=(40, 3)), draw.normal(size=(600, 3))
    labels = np.arange(40)
    squares = np.sum((val[:, None] - train) ** 2, axis=-1)
    np.testing.assert_array_equal(
        baselines.nearest(train, labels, val), np.argmin(squares, axis=1)
    )


def test_logistic_regression_is_that_of_scikit_learn():
    draw = np.random.default_rng(0)
    labels = np.arange(90) % 3
    train = draw.normal(size=(90, 4)) + np.eye(3, 4)[labels]
    weights, bias = baselines.logistic_regression(train, labels, 3)
    found = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000)
    found.fit(train, labels)
    np.testing.assert_allclose(weights.T, found.coef_, atol=2e-3)
    np.testing.assert_allclose(
        bias - bias.mean(),
        found.intercept_ - found.intercept_.mean(),
        atol=2e-3,
    )


def test_on_the_digits():
    # As scikit-learn's own classifiers have it on this split: 4 and 15 of 449
    # are wrong; float32 may move one image of the second.
    found = baselines.baselines(load_images(ImageConfig()))
    assert found[baselines.NEAREST] == 445 / 449
    assert abs(found[baselines.LOGISTIC] - 434 / 449) < 2.5 / 449


def test_large_sets_have_none(monkeypatch, tmp_path):
    # 3 images times 2 times 2 numbers; 3 times 2 numbers times 3 classes.
    limits = {baselines.NEAREST: 12, baselines.LOGISTIC: 18}
    monkeypatch.setattr(baselines, 'LIMITS', limits)
    assert set(baselines.baselines(images())) == set(limits)
    less = {name: limit - 1 for name, limit in limits.items()}
    monkeypatch.setattr(baselines, 'LIMITS', less)
    assert baselines.baselines(images()) == {}
    baselines.write({}, tmp_path)
    assert not list(tmp_path.iterdir())
    assert baselines.shown(tmp_path) == {}


def test_kept_in_the_folder(tmp_path):
    baselines.write({'a': 0.25, 'b': 1.0}, tmp_path)
    text = (tmp_path / 'baselines.json').read_text()
    assert json.loads(text) == {'a': 0.25, 'b': 1.0}
    assert baselines.shown(tmp_path) == {'a': '0.2500', 'b': '1.0000'}


@pytest.mark.parametrize('text', ['[1]', '{"a": "b"}', '{"a": null}', '{'])
def test_a_damaged_file_is_told(tmp_path, text):
    (tmp_path / 'baselines.json').write_text(text)
    with pytest.raises(ConfigError, match=r'baselines\.json'):
        baselines.shown(tmp_path)

"""Baselines on the images of a run: what is reached without its model.

N images to train on, M to validate on, D numbers an image (all pixels and
channels), K classes.
"""

import json
import pathlib
from collections.abc import Mapping

import numpy as np
import scipy.optimize
from jaxtyping import Float, Int
from scipy.special import log_softmax

from moe import files
from moe.paths import read_json, reading
from moe.workloads.vision.data.encoded import Streamed
from moe.workloads.vision.data.images import Images

FILE = 'baselines.json'
NEAREST = '1-nearest-neighbour'
LOGISTIC = 'logistic regression'

# Of larger sets there is no baseline: both are to take seconds.
LIMITS = {
    NEAREST: 10**10,  # N M D
    LOGISTIC: 10**8,  # N D K
}
_ITERATIONS = 100  # of L-BFGS
_ROWS = 256  # validation images whose distances are held at a time


def baselines(images: Images) -> dict[str, float]:
    """Returns the validation accuracy of each baseline, on the same split.

    Both see every training image once, standardised and without augmentation.

    Args:
      images: the images of a run.

    Returns:
      Shares from 0 to 1 by the baseline's name; without the baselines for which
      the set is beyond `LIMITS`, and without any if it is streamed.
    """
    if isinstance(images.train_x, Streamed):
        return {}
    train, val = (x.reshape(len(x), -1) for x in (images.train_x, images.val_x))
    labels, found = images.train_y, {}
    if train.size * len(val) <= LIMITS[NEAREST]:
        found[NEAREST] = nearest(train, labels, val)
    if train.size * images.num_classes <= LIMITS[LOGISTIC]:
        weights, bias = logistic_regression(train, labels, images.num_classes)
        found[LOGISTIC] = np.argmax(val @ weights + bias, axis=1)
    return {
        name: float(np.mean(guess == images.val_y))
        for name, guess in found.items()
    }


def nearest(
    train: Float[np.ndarray, 'N D'],
    labels: Int[np.ndarray, 'N'],
    val: Float[np.ndarray, 'M D'],
) -> Int[np.ndarray, 'M']:
    """Returns the label of the nearest of the training images to each other.

    `argmin_n |v - t_n|^2 = argmin_n |t_n|^2 - 2 v t_n`; of equals, the first.

    Args:
      train: training images.
      labels: their labels.
      val: the images to label.
    """
    norms = np.einsum('nd,nd->n', train, train)
    guess = np.empty(len(val), labels.dtype)
    for first in range(0, len(val), _ROWS):
        rows = slice(first, first + _ROWS)
        distances = norms - 2 * (val[rows] @ train.T)
        guess[rows] = labels[np.argmin(distances, axis=1)]
    return guess


def logistic_regression(
    train: Float[np.ndarray, 'N D'],
    labels: Int[np.ndarray, 'N'],
    num_classes: int,
) -> tuple[Float[np.ndarray, 'D K'], Float[np.ndarray, 'K']]:
    """Fits `softmax(x W + b)` by L-BFGS, from 0.

    The objective is the sum of the images' cross entropies and `|W|^2 / 2`,
    that of scikit-learn's LogisticRegression with its default C = 1; products
    with the images are in their dtype.

    Args:
      train: training images.
      labels: their labels.
      num_classes: K.

    Returns:
      W and b.
    """
    count, width = train.shape
    right = np.eye(num_classes, dtype=train.dtype)[labels]

    def objective(flat):
        both = flat.reshape(width + 1, num_classes)
        weights, bias = both[:-1], both[-1]
        logits = train @ weights.astype(train.dtype) + bias
        logs = log_softmax(logits, axis=1)
        error = (np.exp(logs) - right).astype(train.dtype)
        loss = np.sum(weights**2) / 2 - np.sum(logs * right)
        slope = [train.T @ error + weights, error.sum(0, keepdims=True)]
        return loss / count, np.concatenate(slope).ravel() / count

    found = scipy.optimize.minimize(
        objective,
        np.zeros((width + 1) * num_classes),
        jac=True,
        method='L-BFGS-B',
        options={'maxiter': _ITERATIONS},
    )
    both = found.x.reshape(width + 1, num_classes)
    return both[:-1], both[-1]


def write(found: Mapping[str, float], workdir: pathlib.Path) -> None:
    """Writes the accuracies of baselines to a run's folder, if there are any.

    Args:
      found: what `baselines` returns.
      workdir: the run's folder.
    """
    if found:
        text = json.dumps(dict(found)) + '\n'
        files.write_text(workdir / FILE, text)


def shown(workdir: pathlib.Path) -> dict[str, str]:
    """Returns the accuracies of a run's baselines as text, by name.

    Args:
      workdir: the run's folder; without the file there are none.

    Raises:
      ConfigError: if the file holds something else.
    """
    path = workdir / FILE
    if not path.exists():
        return {}
    found = read_json(path)
    with reading(path):
        return {name: f'{accuracy:.4f}' for name, accuracy in found.items()}

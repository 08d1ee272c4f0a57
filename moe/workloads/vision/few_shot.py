"""Few-shot linear evaluation of the representation that the head reads.

Of a few images of each class the representations are mapped to the classes by
regularised least squares, in closed form; the model stays as it is. Sources:
ViT, arXiv 2010.11929, section 4.1; V-MoE, arXiv 2106.05974, section 3.

N images, D numbers of a representation, K classes.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from moe import progress
from moe.config import ConfigError
from moe.parallel import batch_sharding, global_batch
from moe.workloads.opened import Opened

# From images [B, H, W, C] and their mask to those of the valid ones [N, D].
Represent = Callable[[Any, Any], np.ndarray]

L2 = 1024.0
_CHUNK = 1024  # labels that are read at a time


class Probe(NamedTuple):
    """A linear map of representations to scores of the classes.

    Attributes:
      mean: [D] of the representations.
      deviation: [D], by which they are divided.
      weights: [D, K].
      bias: [K].
    """

    mean: Float[np.ndarray, 'D']
    deviation: Float[np.ndarray, 'D']
    weights: Float[np.ndarray, 'D K']
    bias: Float[np.ndarray, 'K']

    def classify(self, x: Float[np.ndarray, 'N D']) -> Int[np.ndarray, 'N']:
        """Returns the class of the greatest score of each representation."""
        scores = (x - self.mean) / self.deviation @ self.weights + self.bias
        return np.argmax(scores, axis=-1)


def fit(
    x: Float[np.ndarray, 'N D'],
    labels: Int[np.ndarray, 'N'],
    num_classes: int,
    l2: float = L2,
) -> Probe:
    """Solves the regularised least squares, in float64.

    With Z the representations less their mean over their deviation, and Y 1 for
    the class of an image and -1 for others, W minimises `|Z W + b - Y|^2 + l2
    |W|^2`: `W = (Z^T Z + l2 I)^-1 Z^T (Y - mean(Y))` and `b = mean(Y)`, which
    is not regularised.

    Args:
      x: representations.
      labels: class of each.
      num_classes: K.
      l2: factor of the regularisation.
    """
    x = x.astype(np.float64)
    mean, deviation = np.mean(x, axis=0), np.std(x, axis=0) + 1e-5
    z = (x - mean) / deviation
    y = 2.0 * (labels[:, None] == np.arange(num_classes)) - 1.0
    bias = np.mean(y, axis=0)
    squares = z.T @ z + l2 * np.eye(z.shape[1])
    weights = np.linalg.solve(squares, z.T @ (y - bias))
    return Probe(mean, deviation, weights, bias)


def select(
    labels: Callable[[Int[np.ndarray, 'M']], Int[np.ndarray, 'M']],
    count: int,
    num_classes: int,
    shots: int,
    draw: int,
) -> list[Int[np.ndarray, 'S']]:
    """Draws images of each class.

    As many labels are read as are needed, in the order of a permutation.

    Args:
      labels: the labels of some images, by their numbers.
      count: number of images in all.
      num_classes: K.
      shots: images a class.
      draw: number of the draw, which determines it.

    Returns:
      For each class the numbers of its images: as many as there are, and at
      most `shots`, of which the first serve for fewer.
    """
    order = np.random.default_rng((0, draw)).permutation(count)
    found: list[list[int]] = [[] for _ in range(num_classes)]
    missing = num_classes * shots
    for first in range(0, count, _CHUNK):
        rows = order[first : first + _CHUNK]
        for row, label in zip(rows, labels(rows), strict=True):
            if len(found[label]) < shots:
                found[label].append(int(row))
                missing -= 1
        if not missing:
            break
    return [np.array(rows, np.int64) for rows in found]


def measure(
    opened: Opened,
    shots: Sequence[int],
    draws: int,
    l2: float = L2,
    max_batches: int | None = None,
) -> dict[str, Any]:
    """Evaluates the representation of a checkpoint.

    Args:
      opened: the checkpoint, with the images: those to train on are drawn from,
        without augmentation, and those to validate on are classified.
      shots: numbers of images a class.
      draws: draws of each number.
      l2: see `fit`.
      max_batches: the most validation batches; None for all.

    Returns:
      The facts of the checkpoint, `draws`, `l2`, the number of validation
      `images`, and as `rows` for each number of shots `shots`, the `accuracies`
      of the draws, their `mean` and `deviation` (None of one draw), and
      `fewest`, the images of the smallest class; JSON.

    Raises:
      ConfigError: for a class without an image to draw.
    """
    data, most = opened.data, max(shots)
    known = np.full(len(data.train_x), -1, np.int32)

    def labels(rows):
        missing = rows[known[rows] < 0]
        known[missing] = data.train_y[missing]
        return known[rows]

    drawn = [
        select(labels, len(known), data.num_classes, most, draw)
        for draw in range(draws)
    ]
    absent = [str(c) for c, rows in enumerate(drawn[0]) if not len(rows)]
    if absent:
        allowed = f'images to train on of every class (none of {absent[0]})'
        raise ConfigError('config.data', None, allowed)
    needed = np.unique(np.concatenate([np.concatenate(one) for one in drawn]))
    represent = _represent(opened)
    x = _of_rows(opened, needed, represent)
    val_x, val_y = _of_validation(opened, max_batches, represent)
    rows = []
    for number in shots:
        accuracies = []
        for one in drawn:
            chosen = np.concatenate([images[:number] for images in one])
            own = x[np.searchsorted(needed, chosen)]
            probe = fit(own, known[chosen], data.num_classes, l2)
            accuracies.append(float(np.mean(probe.classify(val_x) == val_y)))
        rows.append(
            {
                'shots': number,
                'accuracies': accuracies,
                'mean': float(np.mean(accuracies)),
                'deviation': (
                    float(np.std(accuracies, ddof=1)) if draws > 1 else None
                ),
                'fewest': min(len(images[:number]) for images in drawn[0]),
            }
        )
    facts = {'draws': draws, 'l2': l2, 'images': len(val_y)}
    return {**opened.facts, **facts, 'rows': rows}


def lines(found: Mapping[str, Any]) -> list[str]:
    """Returns what is printed: a line for each number of images.

    Args:
      found: results of `measure`.
    """
    told = [f'step {found["step"]}: a linear probe of few images a class']
    for row in found['rows']:
        spread = ''
        if row['deviation'] is not None:
            spread = f' ± {row["deviation"]:.4f} over {found["draws"]} draws'
        few = ''
        if row['fewest'] < row['shots']:
            few = f' (a class has {row["fewest"]})'
        told.append(
            f'  {row["shots"]}{few}: accuracy {row["mean"]:.4f}{spread}'
        )
    return told


def _represent(opened: Opened) -> Represent:
    """Returns a function from a batch and its mask to representations."""
    sharding = batch_sharding(opened.mesh)
    apply = jax.jit(opened.workload.representations)

    def represent(images, mask):
        with jax.set_mesh(opened.mesh):
            batch = global_batch(sharding, (images, mask))
            found = apply(opened.variables, *batch)
        return np.asarray(jax.device_get(found))[mask]

    return represent


def _of_rows(
    opened: Opened, rows: np.ndarray, represent: Represent
) -> Float[np.ndarray, 'N D']:
    """Returns the representations of images to train on."""
    size, parts = opened.config.data.batch_size, []
    shape = opened.data.train_x.shape[1:]
    with progress.shown('images that are drawn', len(rows), 'images') as reach:
        for first in range(0, len(rows), size):
            own = rows[first : first + size]
            images = np.zeros((size, *shape), np.float32)
            images[: len(own)] = opened.data.train_x[own]
            parts.append(represent(images, np.arange(size) < len(own)))
            reach(first + len(own))
    return np.concatenate(parts)


def _of_validation(
    opened: Opened, max_batches: int | None, represent: Represent
) -> tuple[Float[np.ndarray, 'N D'], Int[np.ndarray, 'N']]:
    """Returns the representations of validation images, and their labels."""
    batches = opened.workload.eval_batches(opened.data, 0, 1)
    x, y = [], []
    with progress.shown('validation', unit='batches') as reach:
        for batch in itertools.islice(batches, max_batches):
            x.append(represent(batch['image'], batch['mask']))
            y.append(batch['label'][batch['mask']])
            reach(len(x))
    return np.concatenate(x), np.concatenate(y)

"""Which class was taken for which: accuracy by class, and confused pairs.

N images, M classes, P pairs of a true and a predicted class.
"""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from moe import files
from moe.paths import read_json, reading


@dataclasses.dataclass(frozen=True)
class Confusion:
    """The confusion matrix of M classes, as its entries that are not 0.

    Attributes:
      num_classes: M.
      counts: [P, 3] int64, each the true class, the predicted class, and the
        number of images, at least 1; in order of the classes.
    """

    num_classes: int
    counts: Int[np.ndarray, 'P 3']

    @classmethod
    def of(
        cls,
        labels: Int[np.ndarray, 'N'],
        guesses: Int[np.ndarray, 'N'],
        num_classes: int,
    ) -> 'Confusion':
        """Counts images.

        Args:
          labels: true class of each image.
          guesses: predicted class of each image.
          num_classes: M.
        """
        code = labels.astype(np.int64) * num_classes + guesses
        code, count = np.unique(code, return_counts=True)
        counts = [code // num_classes, code % num_classes, count]
        return cls(num_classes, np.stack(counts, axis=1))

    @classmethod
    def read(cls, path: pathlib.Path) -> 'Confusion':
        """Reads a file of `write`, or the whole matrix as a list of rows.

        Args:
          path: path of the file, from anybody.

        Raises:
          ConfigError: for a file that holds neither.
        """
        found = read_json(path, (dict, list))
        with reading(path):
            if isinstance(found, dict):
                counts = np.array(found['counts'], np.int64).reshape(-1, 3)
                made = cls(int(found['num_classes']), counts)
            else:
                matrix = np.array(found, np.int64).reshape(len(found), -1)
                pairs = np.argwhere(matrix)
                number = matrix[matrix != 0]
                counts = np.concatenate([pairs, number[:, None]], axis=1)
                made = cls(len(found), counts)
            classes = made.counts[:, :2]
            if np.any(classes < 0) or np.any(classes >= made.num_classes):
                raise ValueError('a class that there is not')
            return made

    def write(self, path: pathlib.Path) -> None:
        """Writes `num_classes` and `counts` as JSON.

        Args:
          path: path of the file.
        """
        plain = {
            'num_classes': self.num_classes,
            'counts': self.counts.tolist(),
        }
        files.write_text(path, json.dumps(plain) + '\n')

    @property
    def matrix(self) -> Int[np.ndarray, 'M M']:
        """Returns the whole matrix: row, true class; column, predicted one."""
        made = np.zeros((self.num_classes, self.num_classes), np.int64)
        true, predicted, count = self.counts.T
        made[true, predicted] = count
        return made

    @property
    def images(self) -> Int[np.ndarray, 'M']:
        """Returns the number of images of each class."""
        made = np.zeros(self.num_classes, np.int64)
        np.add.at(made, self.counts[:, 0], self.counts[:, 2])
        return made

    @property
    def accuracy(self) -> Float[np.ndarray, 'M']:
        """Returns the accuracy of each class, NaN for one without images.

        The share of the images of the class that are predicted to be of it,
        also called its recall.
        """
        right = np.zeros(self.num_classes)
        hits = self.counts[self.counts[:, 0] == self.counts[:, 1]]
        right[hits[:, 0]] = hits[:, 2]
        images = self.images
        return np.divide(
            right, images, out=np.full(len(right), np.nan), where=images > 0
        )

    def confused(self, at_most: int) -> list[tuple[int, int, int]]:
        """Returns the pairs of classes that are confused most, most first.

        Args:
          at_most: number of pairs.

        Returns:
          True class, predicted class, and number of images; of equal numbers
          the lower classes come first.
        """
        wrong = self.counts[self.counts[:, 0] != self.counts[:, 1]]
        order = np.argsort(-wrong[:, 2], kind='stable')[:at_most]
        return [(int(i), int(j), int(n)) for i, j, n in wrong[order]]

    def described(self, at_most: int = 20) -> dict[str, Any]:
        """Returns what an evaluation keeps of the classes, JSON.

        Args:
          at_most: number of confused pairs.

        Returns:
          `images` and `accuracy` (None without images) of each class, their
          `mean_accuracy` over the classes with images, and the most `confused`
          pairs.
        """
        accuracy, there = self.accuracy, self.images > 0
        return {
            'mean_accuracy': float(np.mean(accuracy[there])),
            'accuracy': [
                float(share) if known else None
                for share, known in zip(accuracy, there, strict=True)
            ],
            'images': self.images.tolist(),
            'confused': [list(pair) for pair in self.confused(at_most)],
        }

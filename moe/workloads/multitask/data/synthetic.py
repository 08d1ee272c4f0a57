"""Synthetic regression tasks of a given correlation.

T tasks, D features, M sines, N rows, B rows a batch over all hosts.
"""

import dataclasses
import hashlib
from typing import Annotated

import numpy as np

from moe.config import (
    ConfigError,
    NaturalFloat,
    NaturalInt,
    PositiveFloat,
    PositiveInt,
    Within,
)
from moe.workloads.data_files import check_memory
from moe.workloads.multitask.data import rows
from moe.workloads.multitask.data.source import SOURCES, Data, Inputs, Source
from moe.workloads.multitask.targets import Regression


@SOURCES.register('synthetic')
@dataclasses.dataclass(frozen=True)
class SyntheticSource(Source):
    """Regression tasks of a given correlation; see `load_synthetic`.

    Attributes:
      num_tasks: T, number of tasks.
      correlation: p, the cosine between the weights of any two tasks, from
        -1 / (T - 1), the least that T tasks can have, to 1.
      scale: c, the length of a task's weights.
      num_sines: M, number of sines of a label, beside its linear part.
      num_features: D, number of features, at least T.
      noise: standard deviation of the noise on a label.
      num_rows: N, number of training rows; 0 for an endless stream of new rows.
      num_val_rows: number of validation rows.
      seed: seed of the function and the rows, independent of the run's.
    """

    num_tasks: PositiveInt = 2  # type: ignore[assignment]
    correlation: Annotated[float, Within(-1.0, 1.0)] = 0.5
    scale: PositiveFloat = 1.0
    num_sines: NaturalInt = 5
    num_features: PositiveInt = 100
    noise: NaturalFloat = 0.1
    num_rows: NaturalInt = 200_000
    num_val_rows: PositiveInt = 20_000
    seed: NaturalInt = 0

    def __post_init__(self):
        low = -1 / (self.num_tasks - 1) if self.num_tasks > 1 else -1.0
        if self.correlation < low:
            allowed = f'at least -1 / (num_tasks - 1) = {low:.4g}'
            raise ConfigError('correlation', self.correlation, allowed)
        if self.num_features < self.num_tasks:
            allowed = f'at least num_tasks ({self.num_tasks})'
            raise ConfigError('num_features', self.num_features, allowed)

    def inputs(self):
        """Returns the tasks and features, which the config tells."""
        names = [f'task_{i}' for i in range(self.num_tasks)]
        targets = tuple(Regression(name) for name in names)
        return Inputs(targets, self.num_features)

    def load(self, batch_size):
        """Draws the function and its rows; see `load_synthetic`."""
        if 0 < self.num_rows < batch_size:
            allowed = f'0, or at least batch_size ({batch_size})'
            where = 'config.data.source.num_rows'
            raise ConfigError(where, self.num_rows, allowed)
        # Of a row its features, drawn in double precision, and its sines; of
        # the function its weights and the directions that they mix.
        sizes = self.num_rows, self.num_val_rows, self.num_features
        of_row = 12 * self.num_features + 8 * self.num_tasks * self.num_sines
        whole = (self.num_rows + self.num_val_rows) * of_row
        whole += 32 * self.num_features * self.num_tasks
        names = 'num_rows, num_val_rows, num_features'
        check_memory(whole, f'config.data.source: {names}', sizes)
        return load_synthetic(self)


@dataclasses.dataclass(frozen=True)
class Synthetic(Data):
    """A function, and rows of it.

    Attributes:
      source: the source that describes them.
      weights: float64 [T, D], w.
      slopes: float64 [M], alpha.
      phases: float64 [M], beta.
    """

    source: SyntheticSource
    weights: np.ndarray
    slopes: np.ndarray
    phases: np.ndarray

    def train_batches(self, batch_size, seed, host=0, num_hosts=1):
        """Returns the iterator, also of a stream; see `Data.train_batches`."""
        if self.train is not None:
            return super().train_batches(batch_size, seed, host, num_hosts)

        def fresh(step, _):
            batch = _draw(self, batch_size, 3, seed, step)
            batch['valid'] = np.ones(batch_size, bool)
            return {name: v[host::num_hosts] for name, v in batch.items()}

        return rows.endless(fresh)


def load_synthetic(source: SyntheticSource) -> Synthetic:
    """Draws the function and its rows.

        y_t = w_t x + sum_m sin(alpha_m w_t x + beta_m) + noise,   x ~ N(0, I)
        w_t = c sum_j L_tj u_j,   u orthonormal,   L L' = 1 on the diagonal, p

    With two tasks w_1 = c u_1 and w_2 = c (p u_1 + sqrt(1 - p²) u_2). The
    vectors, slopes and phases depend on the seed alone: tasks of any p are of
    one family. The paper leaves alpha and beta open; they are drawn from
    N(0, 1), as the public reproductions do. Its noise N(0, 0.01) is of
    standard deviation 0.1. Labels are not standardised.

    Source: Ma et al., Modeling Task Relationships in Multi-task Learning with
    Multi-gate Mixture-of-Experts, KDD 2018, section 3.2.

    Args:
      source: description of the tasks.

    Returns:
      The function, training and validation rows.
    """
    draw = np.random.default_rng((source.seed, 0))
    size = (source.num_features, source.num_tasks)
    directions, _ = np.linalg.qr(draw.normal(size=size))
    weights = source.scale * _mixing(source) @ directions.T
    slopes, phases = draw.normal(size=(2, source.num_sines))
    made = Synthetic(
        source.inputs(), None, {}, {}, '', source, weights, slopes, phases
    )
    train = _draw(made, source.num_rows, 1) if source.num_rows else None
    val = _draw(made, source.num_val_rows, 2)
    # Of drawn numbers: matrix products differ between machines.
    digest = hashlib.sha256(repr(source).encode())
    for array in (slopes, phases, val['numeric']):
        digest.update(array.tobytes())
    fingerprint = digest.hexdigest()[:16]
    return dataclasses.replace(
        made, train=train, val=val, fingerprint=fingerprint
    )


def _mixing(source: SyntheticSource) -> np.ndarray:
    """Returns L [T, T], lower triangular, with rows of length 1 at cosine p."""
    mixing = np.zeros((source.num_tasks, source.num_tasks))
    taken = 0.0  # squared length of a row left of its diagonal
    for j in range(source.num_tasks):
        own = np.sqrt(max(1 - taken, 0.0))
        rest = (source.correlation - taken) / own if own > 1e-6 else 0.0
        mixing[j, j], mixing[j + 1 :, j] = own, rest
        taken += rest**2
    return mixing


def _draw(data: Synthetic, count: int, *place: int) -> dict[str, np.ndarray]:
    """Draws rows, a function of the seed and their place."""
    source = data.source
    draw = np.random.default_rng((source.seed, *place))
    x = draw.normal(size=(count, source.num_features))
    linear = x @ data.weights.T
    label = linear + source.noise * draw.normal(size=linear.shape)
    for slope, phase in zip(data.slopes, data.phases, strict=True):
        label += np.sin(slope * linear + phase)
    return {
        'numeric': x.astype(np.float32),
        'label': label.astype(np.float32),
        'mask': np.ones(label.shape, bool),
    }

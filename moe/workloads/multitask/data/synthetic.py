"""Regression tasks that are as alike as one wishes.

T tasks, D features, M sines, N rows, B rows a batch over all hosts.
"""

import dataclasses
import hashlib
from typing import Annotated

import grain
import numpy as np

from moe.config import (
    ConfigError,
    NaturalFloat,
    NaturalInt,
    PositiveFloat,
    PositiveInt,
    Within,
)
from moe.workloads.multitask.data import rows
from moe.workloads.multitask.data.rows import Rows


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
    """Synthetic tasks, as a config describes them.

    Attributes:
      num_tasks: T.
      correlation: p, the cosine between the weights of any two tasks, from
        -1 / (T - 1), which is as unlike as T tasks can be to one another, to 1.
      scale: c, the length of a task's weights.
      num_sines: M.
      num_features: D, at least T.
      noise: standard deviation of the noise on a label.
      num_rows: N, training rows, every epoch the same; 0 for a stream in which
        no row comes twice.
      num_val_rows: rows to validate on.
      seed: of the function and the rows, whatever the seed of a run.
      batch_size: B.
    """

    num_tasks: PositiveInt
    correlation: Annotated[float, Within(-1.0, 1.0)]
    scale: PositiveFloat
    num_sines: NaturalInt
    num_features: PositiveInt
    noise: NaturalFloat
    num_rows: NaturalInt
    num_val_rows: PositiveInt
    seed: NaturalInt
    batch_size: PositiveInt

    def __post_init__(self):
        low = -1 / (self.num_tasks - 1) if self.num_tasks > 1 else -1.0
        if self.correlation < low:
            allowed = f'at least -1 / (num_tasks - 1) = {low:.4g}'
            raise ConfigError('correlation', self.correlation, allowed)
        if self.num_features < self.num_tasks:
            allowed = f'at least num_tasks ({self.num_tasks})'
            raise ConfigError('num_features', self.num_features, allowed)
        if 0 < self.num_rows < self.batch_size:
            allowed = f'0, or at least batch_size ({self.batch_size})'
            raise ConfigError('num_rows', self.num_rows, allowed)


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """A function, and rows of it.

    Attributes:
      config: of all of it.
      weights: float64 [T, D], w.
      slopes: float64 [M], alpha.
      phases: float64 [M], beta.
      train: 'numeric', float32 [N, D], 'label', float32 [N, T], 'mask', bool
        [N, T], all True; None for a stream.
      val: likewise.
      fingerprint: a hash of the numbers drawn; runs on others differ here.
    """

    config: SyntheticConfig
    weights: np.ndarray
    slopes: np.ndarray
    phases: np.ndarray
    train: Rows | None
    val: Rows
    fingerprint: str


def load_synthetic(config: SyntheticConfig) -> Synthetic:
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
      config: of the tasks.

    Returns:
      The function, training and validation rows.
    """
    draw = np.random.default_rng((config.seed, 0))
    size = (config.num_features, config.num_tasks)
    directions, _ = np.linalg.qr(draw.normal(size=size))
    weights = config.scale * _mixing(config) @ directions.T
    slopes, phases = draw.normal(size=(2, config.num_sines))
    made = Synthetic(config, weights, slopes, phases, None, {}, '')
    train = _draw(made, config.num_rows, 1) if config.num_rows else None
    val = _draw(made, config.num_val_rows, 2)
    # Of what is drawn: products are not the same on every machine.
    function = dataclasses.replace(config, batch_size=1)
    digest = hashlib.sha256(repr(function).encode())
    for array in (slopes, phases, val['numeric']):
        digest.update(array.tobytes())
    fingerprint = digest.hexdigest()[:16]
    return dataclasses.replace(
        made, train=train, val=val, fingerprint=fingerprint
    )


def train_batches(
    data: Synthetic, seed: int, host: int = 0, num_hosts: int = 1
) -> grain.DatasetIterator:
    """Endless batches of this host's share of every global batch.

    Batch t is the same set of rows on any number of hosts, and the iterator's
    state, `{"next_index": t}`, is the same on all of them.

    Args:
      data: to train on.
      seed: of the order, or of the stream.
      host: index of this host.
      num_hosts: number of hosts.

    Returns:
      An iterator over dictionaries of 'numeric', float32 [B / num_hosts, D],
      'label', float32 [B / num_hosts, T], 'mask', bool [B / num_hosts, T], and
      'live', bool [B / num_hosts].
    """
    size = data.config.batch_size
    if data.train is not None:
        return rows.train_batches(data.train, size, seed, host, num_hosts)

    def fresh(step, _):
        batch = _draw(data, size, 3, seed, step)
        batch['live'] = np.ones(size, bool)
        return {name: array[host::num_hosts] for name, array in batch.items()}

    return rows.endless(fresh)


def _mixing(config: SyntheticConfig) -> np.ndarray:
    """L [T, T], lower triangular, of rows of length 1 at cosine p."""
    mixing = np.zeros((config.num_tasks, config.num_tasks))
    taken = 0.0  # squared length of a row left of its diagonal
    for j in range(config.num_tasks):
        own = np.sqrt(max(1 - taken, 0.0))
        rest = (config.correlation - taken) / own if own > 1e-6 else 0.0
        mixing[j, j], mixing[j + 1 :, j] = own, rest
        taken += rest**2
    return mixing


def _draw(data: Synthetic, count: int, *place: int) -> dict[str, np.ndarray]:
    """Rows that depend on the seed and their place alone."""
    config = data.config
    draw = np.random.default_rng((config.seed, *place))
    x = draw.normal(size=(count, config.num_features))
    linear = x @ data.weights.T
    label = linear + config.noise * draw.normal(size=linear.shape)
    for slope, phase in zip(data.slopes, data.phases, strict=True):
        label += np.sin(slope * linear + phase)
    return {
        'numeric': x.astype(np.float32),
        'label': label.astype(np.float32),
        'mask': np.ones(label.shape, bool),
    }

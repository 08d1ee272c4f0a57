"""`moe.checkpoints merge_experts DIR --workdir=NEW --to=N`: experts averaged.

Of each mixture layer the N busiest experts on a validation set stay, and each
other one is merged into that of them whose router logits are most like its own.
Source: M-SMoE, arXiv 2310.01334.
"""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
from absl import flags

from moe.checkpoints import hidden, surgery, transform
from moe.checkpoints.leaves import name_of
from moe.checkpoints.measured import measure
from moe.config import ConfigError

OVERRIDES = True
FLAGS = flags.FlagValues()
transform.define(FLAGS)
flags.DEFINE_integer(
    'to', None, 'How many experts a layer has then.', 1, flag_values=FLAGS
)
flags.DEFINE_bool(
    'match',
    True,
    'Match the hidden units of experts before they are averaged.',
    flag_values=FLAGS,
)


class Groups(NamedTuple):
    """Which experts of a layer become one.

    Attributes:
      target: int [E], the new expert that each becomes a part of.
      weight: [E], its weight; those of a new expert sum to 1.
      dominant: int [N], the busiest expert of each new one.
    """

    target: np.ndarray
    weight: np.ndarray
    dominant: np.ndarray


def groups(load: np.ndarray, products: np.ndarray, count: int) -> Groups:
    """Groups the experts of a layer around its busiest.

    Args:
      load: tokens of each expert, [E], which are the weights.
      products: sums of products of two experts' router logits, [E, E], whose
        cosines say how alike they are.
      count: N.
    """
    dominant = np.sort(np.argsort(-load, kind='stable')[:count])
    norm = np.sqrt(np.maximum(np.diag(products), np.finfo(float).tiny))
    alike = (products / norm / norm[:, None])[:, dominant]
    target = alike.argmax(axis=1)
    target[dominant] = np.arange(count)
    weight = np.array(load, np.float64)
    for new in range(count):
        own = target == new
        if not weight[own].any():
            weight[own] = 1
        weight[own] /= weight[own].sum()
    return Groups(target, weight, dominant)


def matched(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]):
    """Returns the order of another network's hidden units, as one has them.

    The sum over the units of the products of what they multiply is greatest.
    Source: Git Re-Basin, arXiv 2209.04836, section 3.2.

    Args:
      one: the matrices of a network by name.
      other: those of the other.

    Returns:
      int [F]: unit i of `one` is most like unit `result[i]` of `other`.
    """
    total: Any = 0.0
    for name in one:
        if name in ('up', 'gate', 'down'):
            a, b = (
                x if name == 'down' else x.T for x in (one[name], other[name])
            )
            total = total + a @ b.T
    return scipy.optimize.linear_sum_assignment(total, maximize=True)[1]


class Merge:
    """Weighted averages of groups of experts: an `Operation`.

    Args:
      groups: the groups of each mixture layer, by its number.
      source: the checkpoint, for the matrices that are matched; None matches
        nothing.
    """

    def __init__(
        self, groups: Mapping[int, Groups], source: transform.Source | None
    ):
        self._groups, self._source = groups, source

    def experts(self, layer: int, name: str, array: np.ndarray) -> np.ndarray:
        """Returns a parameter of the new experts."""
        if self._source is not None:
            orders = self._orders(layer)
            units = zip(array, orders, strict=True)
            array = np.stack([hidden.take(name, a, o) for a, o in units])
        return np.tensordot(self._weights(layer), array, 1).astype(array.dtype)

    def gate(self, layer: int, array: np.ndarray) -> np.ndarray:
        """Returns the weighted averages of the columns."""
        return (array @ self._weights(layer).T).astype(array.dtype)

    def _weights(self, layer: int) -> np.ndarray:
        """Returns the weight of each expert in each new one, [N, E]."""
        target, weight, dominant = self._groups[layer]
        own = target == np.arange(len(dominant))[:, None]
        return np.where(own, weight, 0.0)

    @functools.lru_cache(maxsize=1)  # noqa: B019 - lives as long as a command
    def _orders(self, layer: int) -> list[np.ndarray]:
        """Returns the hidden units of each expert, matched to its dominant."""
        target, _, dominant = self._groups[layer]
        arrays = self._matrices(layer)
        of = lambda e: {name: array[e] for name, array in arrays.items()}
        units = np.arange(arrays['up'].shape[-1])
        return [
            units if dominant[t] == e else matched(of(dominant[t]), of(e))
            for e, t in enumerate(target)
        ]

    def _matrices(self, layer: int) -> dict[str, np.ndarray]:
        """Returns the matrices of the experts of a layer by name."""
        assert self._source is not None
        model, found = self._source.config.model, {}
        between = 'mixture/' if model.moe.shared else ''
        for name in ('up', 'gate', 'down'):
            rest = f'moe/{between}experts/{name}'
            leaf, repeat = name_of(model, 'params/stack/', layer, rest)
            if leaf in self._source.leaves:
                found[name] = self._source.read(leaf)[repeat]
        return found


def run(workdir: pathlib.Path, overrides: transform.Overrides) -> int:
    """Writes a run with merged experts; returns 0.

    Args:
      workdir: folder of the run.
      overrides: fields of its config that the new run has otherwise; those of
        `data` also choose what is measured and evaluated.

    Raises:
      ConfigError: for a number of experts that the config cannot have, or
        experts whose hidden units are not known, unless `--nomatch`.
      Damaged: if the checkpoint is damaged.
    """
    transform.new_folder(FLAGS.workdir)
    source = surgery.opened(workdir, FLAGS)
    moe, layers = source.config.model.moe, source.config.model.moe_layers
    count, new = moe.num_experts, FLAGS.to
    if new is None or new > count:
        raise ConfigError('--to', new, f'at most num_experts ({count})')
    if FLAGS.match:
        field = 'config.model.moe.experts'
        hidden.check_known(moe.experts, f'{field} (or --nomatch)')
    changes = {'model.moe.num_experts': new}
    surgery.changed(source, changes, overrides)
    found = measure(source, transform.data_of(overrides))
    each = [
        groups(load, products, new)
        for load, products in zip(found.load, found.products, strict=True)
    ]
    lines = [
        f'layer {layer}: {count} experts become {new}, of up to '
        f'{np.bincount(group.target).max()} each'
        for layer, group in zip(layers, each, strict=True)
    ]
    told = transform.Told(
        'merge_experts',
        {'to': new, 'match': FLAGS.match},
        lines,
        {'groups': [group.target.tolist() for group in each]},
    )
    by_layer = dict(zip(layers, each, strict=True))
    operation = Merge(by_layer, source if FLAGS.match else None)
    surgery.write(source, operation, changes, overrides, FLAGS, told)
    return 0

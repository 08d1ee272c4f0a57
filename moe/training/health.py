"""Warnings about a run that trains, but not as it should.

They read the metrics that are logged anyway, and each is told once for a layer
or a task, when it has held in `PATIENCE` lines of metrics in a row.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

PATIENCE = 5  # lines in a row
COLLAPSED = 0.9  # share of the tokens that one expert has
DROPPED = 0.3  # share of the assignments beyond capacity
DOMINATES = 20  # times the sum of the other tasks' losses


class Health:
    """What has been wrong in the newest lines of metrics, and what was told."""

    def __init__(self) -> None:
        self._lines: Counter[tuple[str, str]] = Counter()

    def warnings(self, values: Mapping[str, Any]) -> list[str]:
        """Returns the warnings that a line of metrics brings.

        Args:
          values: metrics by name, as they are logged.
        """
        found = {(kind, place): line for kind, place, line in _wrong(values)}
        told = [key for key, n in self._lines.items() if n >= PATIENCE]
        self._lines = Counter(
            {key: self._lines[key] + 1 for key in found}
            | dict.fromkeys(told, PATIENCE)
        )
        return [
            line
            for key, line in found.items()
            if key not in told and self._lines[key] == PATIENCE
        ]


def _wrong(values: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yields kind, layer or task, and line of all that is wrong now."""
    for name, value in values.items():
        place, _, statistic = name.rpartition('/')
        own = lambda other, place=place: values.get(f'{place}/{other}')
        if not place.startswith('moe/') or isinstance(value, list):
            continue
        layer = place.removeprefix('moe/')
        if statistic == 'dead_experts' and value >= 1:
            yield (
                'dead',
                layer,
                f'{value:.0f} experts of {layer} have no token: raise '
                'config.losses.load_balance, or route by a selection bias '
                '(router sigmoid)',
            )
        if statistic == 'dropped' and value > DROPPED:
            yield (
                'dropped',
                layer,
                f'{layer} drops {value:.0%} of its assignments: raise '
                'config.model.moe.capacity.train or config.losses.load_balance',
            )
        load, chosen = own('load'), own('experts_per_token')
        if statistic == 'load_max' and load and chosen is not None:
            share = value * chosen / len(load)
            # Where all experts have all tokens, none has more than others.
            if value >= 2 and share > COLLAPSED:
                yield (
                    'collapsed',
                    layer,
                    f'one expert of {layer} has {share:.0%} of the tokens: '
                    'raise config.losses.load_balance, or lower '
                    'config.optimizer.learning_rate',
                )
    yield from _dominating(values)


def _dominating(values: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    prefix = 'train/loss/'
    losses = {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if name.startswith(prefix)
    }
    for task, loss in losses.items():
        others = sum(losses.values()) - loss
        if len(losses) > 1 and loss > DOMINATES * others > 0:
            yield (
                'dominates',
                task,
                f'the loss of {task} is {loss / others:.0f} times that of the '
                "other tasks: transform its label in the data's schema, or set "
                'config.balance.weights',
            )

"""Figures of the statistics that mixture layers, gates and routers log.

A metric `moe/PLACE/NAME` is a statistic or a state of a router, where PLACE is
a layer or a gate; scalars are drawn as curves, values of every expert as heat
maps, whatever their names.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from moe.report import plots
from moe.report.markup import figure, paragraph, section
from moe.report.results import words
from moe.report.run import Run

LAYERS = 8  # that have a picture of their own; of more, evenly spaced ones
_LINES = 12  # in one picture; more layers make a heat map

# Caption of the curves of each statistic. These come first.
_FIRST = {
    'entropy': "Entropy of the router's distribution in nats, mean over "
    'tokens: 0 is certain, ln(experts) undecided.',
    'confidence': 'Probability of the likeliest expert, mean over tokens.',
    'dropped': 'Share of the assignments dropped beyond capacity.',
    'max_violation': 'Largest load over the mean load, minus 1.',
    'dead_experts': 'Experts without any token.',
    'experts_per_token': 'Experts of a token.',
    'logit_rms': "Scale of the router's logits: root of their mean square.",
}
# Statistics that the heat map of the loads already shows.
_OF_LOAD = frozenset({'load_max', 'load_min', 'load_cv'})
# Statistics of every expert: label of the colours, colours, caption.
_MAPS: dict[str, tuple[str, Mapping[str, Any], str]] = {
    'load': (
        'load / uniform share',
        plots.LOADS,
        'Load of every expert over time: white is the uniform share, red '
        'more, blue less.',
    ),
    'gate': ('mean gate', plots.GATES, 'Mean gate of every expert over time.'),
}


def in_training(run: Run) -> str:
    """Returns the section of the mixtures in training.

    Args:
      run: a run of any workload.
    """
    return section('Mixture layers in training', figures(run))


def in_evaluation(run: Run) -> str:
    """Returns the section of the mixtures over the validation set.

    Args:
      run: a run of any workload.
    """
    return section('Mixture layers in evaluation', figures(run, 'eval/moe'))


def figures(run: Run, kind: str = 'moe') -> list[str]:
    """Draws all statistics of a run.

    Args:
      run: a run of any workload.
      kind: see `Run.statistics`.

    Returns:
      Figures, HTML: heat maps, then curves, then a line with the statistics
      that are constant.
    """
    found = run.statistics(kind)
    curves = {name: _of_rank(run, p, 1) for name, p in found.items()}
    maps = {name: _of_rank(run, p, 2) for name, p in found.items()}
    parts: list[str] = []
    still: list[str] = []
    for draw, known, groups in (
        (_maps, _MAPS, maps),
        (_curves, _FIRST, curves),
    ):
        for name in dict.fromkeys([*known, *groups]):
            places = groups.get(name)
            if not places or name in _OF_LOAD:
                continue
            value = _only_value(run, places)
            if value is None:
                parts.append(draw(run, name, places))
            else:
                still.append(f'{words(name)} {value:.4g}')
    if still:
        parts.append(paragraph(f'The same at every step: {", ".join(still)}.'))
    return parts


def _of_rank(run: Run, places: Mapping[str, str], rank: int) -> dict[str, str]:
    """Returns the places whose values over the steps have `rank` axes."""
    return {
        place: metric
        for place, metric in places.items()
        if run.metrics[metric].values.ndim == rank
    }


def _maps(run: Run, name: str, places: Mapping[str, str]) -> str:
    panels = {_label(place): run.metrics[m] for place, m in places.items()}
    label, colours, caption = _MAPS.get(
        name,
        (
            words(name),
            plots.colours_of([column.values for column in panels.values()]),
            f'{words(name)} of every expert over time.',
        ),
    )
    if len(panels) <= LAYERS:
        return figure(plots.expert_map(panels, label, colours), caption)
    some = spread(panels)
    shown = f'{caption} {len(some)} of {len(panels)} layers.'
    return figure(plots.expert_map(some, label, colours), shown) + figure(
        plots.matrices(
            {'newest': _newest(panels)},
            label,
            colours,
            xlabel='expert',
            rows=list(panels),
        ),
        f'The same at step {run.steps:,}, of all layers.',
    )


def spread(panels: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `LAYERS` evenly spaced entries, all if there are no more.

    Args:
      panels: entries by layer.
    """
    names, last = list(panels), len(panels) - 1
    if last < LAYERS:
        return dict(panels)
    return {
        names[place]: panels[names[place]]
        for place in (i * last // (LAYERS - 1) for i in range(LAYERS))
    }


def _newest(panels: plots.Columns) -> np.ndarray:
    """Returns the newest values of layers [L, E], NaN for absent experts."""
    rows = [column.last for column in panels.values()]
    found = np.full((len(rows), max(map(len, rows))), np.nan)
    for row, values in zip(found, rows, strict=True):
        row[: len(values)] = values
    return found


def _curves(run: Run, name: str, places: Mapping[str, str]) -> str:
    panels = {_label(place): run.metrics[m] for place, m in places.items()}
    caption = f'{words(name)} by gate.'
    if 'layer_' in next(iter(places)):
        caption = _FIRST.get(name, f'{words(name)} by mixture layer.')
    if len(panels) > _LINES:
        colours = plots.colours_of([c.values for c in panels.values()])
        image = plots.layer_map(panels, words(name), colours)
    else:
        image = plots.curves({'': panels}, {p: p for p in panels}, words(name))
    return figure(image, caption)


def _only_value(run: Run, places: Mapping[str, str]) -> float | None:
    """Returns the one value of all places and steps; None if they differ."""
    values = [run.metrics[metric].values.ravel() for metric in places.values()]
    joined = np.concatenate(values)
    return float(joined[-1]) if plots.constant(joined) else None


def _label(place: str) -> str:
    """Returns the label of a layer or gate: 'layer 3' for `layer_3`."""
    return place.replace('layer_', 'layer ')

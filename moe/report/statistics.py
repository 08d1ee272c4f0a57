"""Figures of the statistics that mixture layers, gates and routers log.

A metric `moe/PLACE/NAME` is a statistic or a state of a router, where PLACE is
a layer or a gate; scalars are drawn as curves, values of every expert as heat
maps, whatever their names.
"""

import html
from collections.abc import Mapping
from typing import Any

import numpy as np

from moe.report import plots
from moe.report.markup import figure
from moe.report.run import Run

# Label of the axis by statistic. These come first.
_FIRST = {
    'entropy': 'entropy (nats)',
    'dropped': 'share of assignments dropped',
    'max_violation': 'max load / mean load - 1',
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


def figures(run: Run) -> list[str]:
    """Draws all statistics of a run.

    Args:
      run: a run of any workload.

    Returns:
      Figures, HTML: heat maps, then curves, then a line with the statistics
      that are constant.
    """
    found = run.statistics()
    curves = {name: _of_rank(run, p, 1) for name, p in found.items()}
    maps = {name: _of_rank(run, p, 2) for name, p in found.items()}
    parts: list[str] = []
    still: list[str] = []
    for draw, known, groups in (
        (_map, _MAPS, maps),
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
                still.append(f'{name} {value:.4g}')
    if still:
        parts.append(
            f'<p>The same at every step: {html.escape(", ".join(still))}.</p>'
        )
    return parts


def _of_rank(run: Run, places: Mapping[str, str], rank: int) -> dict[str, str]:
    """Returns the places whose values over the steps have `rank` axes."""
    return {
        place: metric
        for place, metric in places.items()
        if run.metrics[metric].values.ndim == rank
    }


def _map(run: Run, name: str, places: Mapping[str, str]) -> str:
    panels = {_label(place): run.metrics[m] for place, m in places.items()}
    label, colours, caption = _MAPS.get(
        name,
        (
            name,
            plots.colours_of([column.values for column in panels.values()]),
            f'{name} of every expert over time.',
        ),
    )
    return figure(plots.expert_map(panels, label, colours), caption)


def _curves(run: Run, name: str, places: Mapping[str, str]) -> str:
    lines = {metric: _label(place) for place, metric in places.items()}
    image = plots.curves({'': run.metrics}, lines, _FIRST.get(name, name))
    what = 'mixture layer' if 'layer_' in next(iter(places)) else 'gate'
    return figure(image, f'{name} by {what}.')


def _only_value(run: Run, places: Mapping[str, str]) -> float | None:
    """Returns the one value of all places and steps; None if they differ."""
    values = [run.metrics[metric].values.ravel() for metric in places.values()]
    joined = np.concatenate(values)
    return float(joined[-1]) if plots.constant(joined) else None


def _label(place: str) -> str:
    """Returns the label of a layer or gate: 'layer 3' for `layer_3`."""
    return place.replace('layer_', 'layer ')

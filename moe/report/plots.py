"""Plots of runs, as the bytes of a PNG."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

from moe.metrics import Column

matplotlib.use('Agg')
from matplotlib import pyplot as plt

Columns = Mapping[str, Column]


def constant(values: np.ndarray) -> bool:
    """Whether all values are equal, up to rounding.

    Args:
      values: numbers of any shape; NaN is ignored.
    """
    extent = np.nanmax(values, initial=-np.inf) - np.nanmin(
        values, initial=np.inf
    )
    return not extent > 1e-5 * np.nanmax(np.abs(values), initial=0.0)


def curves(
    runs: Mapping[str, Columns], names: Mapping[str, str], ylabel: str
) -> bytes | None:
    """Plots metrics over steps, a line for each run and metric.

    Args:
      runs: the metrics of each run, by its label.
      names: the label of each metric; '' if there is only one.
      ylabel: what is measured, with its unit.

    Returns:
      A PNG; None if no run has any of the metrics.
    """
    figure, axes = plt.subplots(figsize=(6, 3.2))
    many = len(runs) * len(names) > 6
    if many:
        colours = map(tuple, plt.get_cmap('tab20')(range(20)))
        axes.set_prop_cycle(color=list(colours))
    for label, metrics in runs.items():
        for name, what in names.items():
            if name in metrics:
                steps, values = metrics[name]
                text = ' '.join(p for p in (label, what) if p)
                alone = 'o' if len(steps) == 1 else ''
                axes.plot(steps, values, label=text, lw=1.4, marker=alone)
    if not axes.lines:
        plt.close(figure)
        return None
    axes.set(xlabel='step', ylabel=ylabel)
    axes.grid(alpha=0.3)
    top = axes.dataLim.ymax
    # A constant line up to rounding, such as no drops.
    if 0 <= axes.dataLim.height <= 1e-5 * abs(top):
        axes.set_ylim(0, max(1.0, 2 * top))
    if any(not str(x.get_label()).startswith('_') for x in axes.lines):
        legend = axes.legend(fontsize=8)
        if many:  # beside the picture, not in front of it
            legend.set_loc('upper left')
            legend.set_bbox_to_anchor((1.01, 1.0), axes.transAxes)
    return _png(figure)


# Loads around the uniform share: white is 1, blue less, red more.
LOADS = {
    'cmap': 'RdBu_r',
    'norm': matplotlib.colors.TwoSlopeNorm(1.0, 0.0, 2.0),
}
# Gates, from 0 to 1.
GATES = {'cmap': 'Reds', 'norm': matplotlib.colors.Normalize(0.0, 1.0)}


def colours_of(values: Sequence[np.ndarray]) -> dict[str, Any]:
    """Returns colours for several panels of numbers of unknown range.

    Args:
      values: numbers of each panel, of any shape.

    Returns:
      Options of `imshow`: white is 0, red the largest magnitude, blue below 0.
    """
    top = max(float(np.nanmax(np.abs(v), initial=0.0)) for v in values) or 1.0
    if min(float(np.nanmin(v, initial=0.0)) for v in values) < 0:
        norm = matplotlib.colors.Normalize(-top, top)
        return {'cmap': 'RdBu_r', 'norm': norm}
    return {'cmap': 'Reds', 'norm': matplotlib.colors.Normalize(0.0, top)}


def expert_map(
    panels: Columns, label: str, colours: Mapping[str, Any]
) -> bytes | None:
    """Plots a metric of every expert over time, as heat maps.

    Args:
      panels: columns of values [N, E], by the label of the panel.
      label: what is measured.
      colours: `LOADS`, `GATES`, or those of `colours_of`.

    Returns:
      A PNG; None if there is nothing to show.
    """
    if not panels:
        return None
    figure, grid = plt.subplots(
        len(panels),
        1,
        figsize=(6, 0.7 + 1.1 * len(panels)),
        squeeze=False,
        sharex=True,
    )
    for (name, (steps, values)), axes in zip(
        panels.items(), grid[:, 0], strict=True
    ):
        axes.imshow(
            values.T,
            aspect='auto',
            interpolation='nearest',
            extent=(steps[0], steps[-1] + 1e-9, values.shape[1] - 0.5, -0.5),
            **colours,
        )
        axes.set_ylabel(f'{name}\nexpert', fontsize=8)
        axes.tick_params(labelsize=7)
    grid[-1, 0].set_xlabel('step')
    image = grid[0, 0].images[0]
    bar = figure.colorbar(image, ax=grid[:, 0].tolist())
    bar.set_label(label, fontsize=8)
    return _png(figure)


def against(
    points: Sequence[tuple[Any, float, str]], xlabel: str, ylabel: str
) -> bytes | None:
    """Plots a metric against a field, with lines through the means.

    Args:
      points: value of the field, value of the metric, label of the line.
        Positive numbers have a linear or logarithmic scale; other values stand
        side by side, numbers in order.
      xlabel: name of the field.
      ylabel: name of the metric.

    Returns:
      A PNG; None without points.
    """
    if not points:
        return None
    values = list(dict.fromkeys(x for x, _, _ in points))
    if all(isinstance(x, (int, float)) for x in values):
        values.sort()
        scale = values[0] > 0
    else:
        scale = False
    places = {x: x if scale else i for i, x in enumerate(values)}
    figure, axes = plt.subplots(figsize=(6, 3.2))
    for label in dict.fromkeys(line for _, _, line in points):
        mine = [(places[x], y) for x, y, line in points if line == label]
        means = {
            x: float(np.mean([y for other, y in mine if other == x]))
            for x in sorted({x for x, _ in mine})
        }
        (drawn,) = axes.plot(
            list(means), list(means.values()), label=label, lw=1.2
        )
        axes.plot(*zip(*mine, strict=True), 'o', ms=4, color=drawn.get_color())
    if scale and values[-1] >= 8 * values[0]:
        axes.set_xscale('log')
    axes.set_xticks(list(places.values()), [str(x) for x in places])
    axes.minorticks_off()
    if max(len(str(x)) for x in values) > 6:
        axes.tick_params(axis='x', labelrotation=20, labelsize=8)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    if any(line for _, _, line in points):
        axes.legend(fontsize=7)
    return _png(figure)


def _png(figure) -> bytes:
    for text in figure.findobj(matplotlib.text.Text):
        text.set_parse_math(False)  # names of metrics are no formulas
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=110, bbox_inches='tight')
    plt.close(figure)
    return buffer.getvalue()

"""Plots of runs, as the bytes of a PNG."""

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

from moe.metrics import Column

matplotlib.use('Agg')
from matplotlib import pyplot as plt
from matplotlib import ticker

Columns = Mapping[str, Column]

_SIZE = (5.0, 2.9)  # inches; texts can be read at the width of a phone
SPANS = 500  # in which a line is looked at; a picture has not many more dots


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
    runs: Mapping[str, Columns],
    names: Mapping[str, str],
    ylabel: str,
    logarithmic: bool = False,
) -> bytes | None:
    """Plots metrics over steps, a line for each run and metric.

    Of a long line the least and the largest value of every short span are
    drawn, so that no peak is lost.

    Args:
      runs: the metrics of each run, by its label.
      names: the label of each metric; '' if there is only one.
      ylabel: what is measured, with its unit.
      logarithmic: whether positive values have a logarithmic scale.

    Returns:
      A PNG; None if no run has any of the metrics.
    """
    figure, axes = plt.subplots(figsize=_SIZE)
    many = len(runs) * len(names) > 6
    if many:
        colours = map(tuple, plt.get_cmap('tab20')(range(20)))
        axes.set_prop_cycle(color=list(colours))
    for label, metrics in runs.items():
        for name, what in names.items():
            if name in metrics:
                steps, values = _extremes(*metrics[name])
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
    elif logarithmic and axes.dataLim.ymin > 0:
        axes.set_yscale('log')
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(ticker.StrMethodFormatter('{x:g}'))
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    if any(not str(x.get_label()).startswith('_') for x in axes.lines):
        below: dict[str, Any] = {
            'loc': 'upper center',
            'bbox_to_anchor': (0.5, -0.2),
        }
        axes.legend(fontsize=8, **({'ncols': 3, **below} if many else {}))
    return _png(figure)


def _extremes(
    steps: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the least and the largest value of each of `SPANS` spans."""
    if len(steps) <= 2 * SPANS:
        return steps, values
    cuts = np.linspace(0, len(steps), SPANS + 1).astype(int)
    kept = {0, len(steps) - 1}
    for low, high in itertools.pairwise(cuts):
        span = values[low:high]
        kept.add(low + int(np.argmin(np.where(np.isnan(span), np.inf, span))))
        kept.add(low + int(np.argmax(np.where(np.isnan(span), -np.inf, span))))
    order = np.array(sorted(kept))
    return steps[order], values[order]


def _means(column: Column) -> Column:
    """Returns the means of at most `SPANS` spans of a column."""
    steps, values = column
    if len(steps) <= SPANS:
        return column
    cuts = np.linspace(0, len(steps), SPANS + 1).astype(int)
    sums = np.add.reduceat(values, cuts[:-1], axis=0)
    size = np.diff(cuts).reshape(-1, *[1] * (values.ndim - 1))
    kept = steps[cuts[:-1]]
    kept[-1] = steps[-1]
    return Column(kept, sums / size)


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
        figsize=(_SIZE[0], 0.7 + 1.1 * len(panels)),
        squeeze=False,
        sharex=True,
    )
    for (name, column), axes in zip(panels.items(), grid[:, 0], strict=True):
        steps, values = _means(column)
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
    return _with_bar(figure, grid, label)


def layer_map(
    panels: Columns, label: str, colours: Mapping[str, Any]
) -> bytes | None:
    """Plots a scalar metric of many layers over time, as one heat map.

    Args:
      panels: columns of values [N], by the label of the layer; those of other
        steps than the first has are interpolated.
      label: what is measured.
      colours: as those of `expert_map`.

    Returns:
      A PNG; None if there is nothing to show.
    """
    if not panels:
        return None
    thin = [_means(column) for column in panels.values()]
    steps = thin[0].steps
    rows = [np.interp(steps, c.steps, c.values) for c in thin]
    figure, axes = plt.subplots(figsize=(_SIZE[0], 1.0 + 0.09 * len(rows)))
    axes.imshow(
        np.stack(rows),
        aspect='auto',
        interpolation='nearest',
        extent=(steps[0], steps[-1] + 1e-9, len(rows) - 0.5, -0.5),
        **colours,
    )
    axes.set_xlabel('step')
    _name_rows(axes, list(panels))
    return _with_bar(figure, np.array([[axes]]), label)


def matrices(
    panels: Mapping[str, np.ndarray],
    label: str,
    colours: Mapping[str, Any],
    *,
    xlabel: str,
    ylabel: str = '',
    rows: Sequence[str] = (),
) -> bytes | None:
    """Plots matrices as heat maps, side by side where they are square.

    Args:
      panels: matrices [R, C] by the label of the panel.
      label: what is measured.
      colours: as those of `expert_map`.
      xlabel: what the columns are.
      ylabel: what the rows are.
      rows: names of the rows, instead of their numbers.

    Returns:
      A PNG; None if there is nothing to show.
    """
    if not panels:
        return None
    high, wide = next(iter(panels.values())).shape
    across = 2 if high * 2 > wide and len(panels) > 1 else 1
    down = -(-len(panels) // across)
    tall = min(2.2, 0.5 + 0.2 * high) if across > 1 or rows else 3.2
    figure, grid = plt.subplots(
        down,
        across,
        figsize=(_SIZE[0], 0.6 + tall * down),
        squeeze=False,
        layout='constrained',
    )
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for (name, values), axes in zip(panels.items(), grid.flat, strict=False):
        axes.imshow(values, aspect='auto', interpolation='nearest', **colours)
        axes.set_title(name, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.set_xlabel(xlabel, fontsize=8)
        axes.set_ylabel(ylabel, fontsize=8)
        if rows:
            _name_rows(axes, rows)
    return _with_bar(figure, grid, label)


def _name_rows(axes: Any, names: Sequence[str]) -> None:
    """Names rows of a heat map, as many as there is room for."""
    places = range(0, len(names), -(-len(names) // 16))
    axes.set_yticks(list(places), [names[i][:20] for i in places], fontsize=7)


def _with_bar(figure: Any, grid: np.ndarray, label: str) -> bytes:
    """Returns the picture, with a bar of the colours of the first panel."""
    there = [axes for axes in grid.flat if axes.images]
    bar = figure.colorbar(there[0].images[0], ax=there)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
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
    figure, axes = plt.subplots(figsize=_SIZE)
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
    figure.savefig(buffer, format='png', dpi=130, bbox_inches='tight')
    plt.close(figure)
    return buffer.getvalue()

"""Pictures of docs/benchmarks.md."""

import pathlib
from collections.abc import Sequence

from matplotlib.figure import Figure

from benchmarks.layer import DENSE_LIMIT
from benchmarks.record import Record

_COLOURS = ('#1b6ca8', '#e07a1f', '#4c956c', '#9b2226', '#6d597a', '#8d99ae')


def draw(records: Sequence[Record], folder: pathlib.Path) -> list[pathlib.Path]:
    """Draws what there are records of; returns the files.

    Args:
      records: lines of all suites.
      folder: where the pictures are written.
    """
    timed = [r for r in records if 'dense_over_time' in r]
    made = []
    for suite, name, make in (
        ('layer', 'benchmarks_layer.png', _layer),
        ('scaling', 'benchmarks_scaling.png', _scaling),
    ):
        found = [r for r in timed if r['suite'] == suite]
        if found:
            figure = make(found)
            path = folder / name
            # Without the version of matplotlib, so that it changes less.
            figure.savefig(path, dpi=110, metadata={'Software': None})
            made.append(path)
    return made


def _layer(records: Sequence[Record]) -> Figure:
    """Bars of each case's speed over that of the dense limit, by layer."""
    found = [
        r
        for r in records
        if r['load'] == 'balanced' and r['case'] != DENSE_LIMIT
    ]
    layers: dict[str, list[Record]] = {}
    for one in found:
        title = f'E = {one["num_experts"]}, D = {one["width"]}'
        layers.setdefault(title, []).append(one)
    height = 0.6 + sum(0.5 + 0.27 * len(rows) for rows in layers.values())
    figure = Figure(figsize=(8, height), layout='constrained')
    ratios = [len(rows) for rows in layers.values()]
    axes = figure.subplots(
        len(layers), 1, squeeze=False, height_ratios=ratios, sharex=True
    )[:, 0]
    for axis, (title, rows) in zip(axes, layers.items(), strict=True):
        names = [r['case'] for r in rows]
        ours = ('grouped', 'indexed', 'onehot')
        colours = [
            _COLOURS[5]
            if n.startswith(('limit', 'dense'))
            else _COLOURS[0]
            if n.startswith(ours)
            else _COLOURS[1]
            for n in names
        ]
        values = [r['dense_over_time'] for r in rows]
        bars = axis.barh(names, values, color=colours)
        axis.bar_label(bars, [f' {v:.2f}' for v in values], fontsize=8)
        axis.invert_yaxis()
        axis.set_title(title, fontsize=9, loc='left')
        axis.tick_params(labelsize=8)
        axis.spines[['top', 'right']].set_visible(False)
    axes[-1].set_xlabel('speed over that of the dense limit', fontsize=9)
    return figure


def _scaling(records: Sequence[Record]) -> Figure:
    """Lines of the speed over dense, a panel for each size that grows."""
    names = list(dict.fromkeys(r['axis'] for r in records))
    figure = Figure(figsize=(2.6 * len(names), 2.8), layout='constrained')
    axes = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for axis, name in zip(axes, names, strict=True):
        cases = list(dict.fromkeys(r['case'] for r in records))
        for colour, case in zip(_COLOURS, cases, strict=False):
            points = [
                (r['value'], r['dense_over_time'])
                for r in records
                if r['axis'] == name and r['case'] == case
            ]
            axis.plot(
                *zip(*points, strict=True), '.-', color=colour, label=case
            )
        values = sorted({r['value'] for r in records if r['axis'] == name})
        axis.set_xscale('log', base=2)
        axis.set_xticks(values, [f'{v:,}' for v in values])
        axis.set_xlabel(name, fontsize=9)
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=8)
        axis.spines[['top', 'right']].set_visible(False)
    axes[0].set_ylabel('speed over dense', fontsize=9)
    axes[0].legend(fontsize=7, frameon=False)
    return figure

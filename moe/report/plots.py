"""Pictures of runs, each as the bytes of a PNG."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

matplotlib.use('Agg')
from matplotlib import pyplot as plt

_Metrics = Sequence[Mapping[str, Any]]


def series(metrics: _Metrics, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one metric, where it was written.

    Args:
      metrics: lines of `metrics.jsonl`.
      name: of the metric, a scalar or a list.

    Returns:
      Steps [N] and values [N] or [N, E].
    """
    found = [(m['step'], m[name]) for m in metrics if name in m]
    steps = np.array([step for step, _ in found])
    return steps, np.array([value for _, value in found], float)


def curves(
    runs: Mapping[str, _Metrics], names: Mapping[str, str], ylabel: str
) -> bytes | None:
    """Metrics over steps, one line a run and metric.

    Args:
      runs: label to metrics.
      names: metric to its own label; '' if there is only one.
      ylabel: what is measured, with its unit.

    Returns:
      A PNG; None if no run has any of the metrics.
    """
    figure, axes = plt.subplots(figsize=(6, 3.2))
    for label, metrics in runs.items():
        for name, what in names.items():
            steps, values = series(metrics, name)
            if len(steps):
                text = ' '.join(p for p in (label, what) if p)
                axes.plot(steps, values, label=text, lw=1.4)
    if not axes.lines:
        plt.close(figure)
        return None
    axes.set(xlabel='step', ylabel=ylabel)
    axes.grid(alpha=0.3)
    if axes.dataLim.height == 0:  # a line that never moves, such as no drops
        axes.set_ylim(0, max(1.0, 2 * axes.dataLim.ymax))
    if any(not str(x.get_label()).startswith('_') for x in axes.lines):
        axes.legend(fontsize=8)
    return _png(figure)


def load_map(metrics: _Metrics, layers: Sequence[int]) -> bytes | None:
    """Expert load over time by layer, as heat maps around the uniform share.

    Args:
      metrics: lines of `metrics.jsonl`.
      layers: mixture layers.

    Returns:
      A PNG: white is the uniform share, blue less, red more; None if there is
      no load to show.
    """
    loads = [series(metrics, f'moe/layer_{i}/load') for i in layers]
    if not loads or not len(loads[0][0]):
        return None
    figure, grid = plt.subplots(
        len(layers),
        1,
        figsize=(6, 0.7 + 1.1 * len(layers)),
        squeeze=False,
        sharex=True,
    )
    for layer, (steps, load), axes in zip(
        layers, loads, grid[:, 0], strict=True
    ):
        axes.imshow(
            load.T,
            aspect='auto',
            interpolation='nearest',
            cmap='RdBu_r',
            norm=matplotlib.colors.TwoSlopeNorm(1.0, 0.0, 2.0),
            extent=(steps[0], steps[-1] + 1e-9, load.shape[1] - 0.5, -0.5),
        )
        axes.set_ylabel(f'layer {layer}\nexpert', fontsize=8)
        axes.tick_params(labelsize=7)
    grid[-1, 0].set_xlabel('step')
    image = grid[0, 0].images[0]
    bar = figure.colorbar(image, ax=grid[:, 0].tolist())
    bar.set_label('load / uniform share', fontsize=8)
    return _png(figure)


def _png(figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=110, bbox_inches='tight')
    plt.close(figure)
    return buffer.getvalue()

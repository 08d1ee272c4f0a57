"""Pictures: real PNGs that show what was measured."""

import io

import numpy as np
import pytest
from matplotlib import pyplot as plt

from moe.metrics import Column, columns
from moe.report import plots
from tests.report import runs

METRICS = columns(runs.lines())


def pixels(png):
    """The picture as [height, width, RGBA] in 0 to 1; no figure is left."""
    assert plt.get_fignums() == []
    return plt.imread(io.BytesIO(png), format='png')


def load_map(metrics, layers):
    panels = {f'layer {i}': metrics[f'moe/layer_{i}/load'] for i in layers}
    return plots.expert_map(panels, 'load', plots.LOADS)


def test_curves_show_every_line():
    # The first line is blue, the second orange.
    def coloured(runs):
        image = pixels(plots.curves(runs, {'train/loss': 'train'}, 'loss'))
        difference = image[..., 0] - image[..., 2]
        return np.sum(difference < -0.5), np.sum(difference > 0.5)

    steps, values = METRICS['train/loss']
    other = {'train/loss': Column(steps, 2 * values)}
    blue, orange = coloured({'': METRICS})
    assert blue > 100
    assert orange == 0
    blue, orange = coloured({'a': METRICS, 'b': other})
    assert blue > 100
    assert orange > 100


def test_legend_of_many_curves_hides_none(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, '_png', lambda figure: drawn.append(figure))
    for count, inside in ((6, True), (7, False)):
        runs = {f'run {i}': METRICS for i in range(count)}
        plots.curves(runs, {'train/loss': ''}, 'loss')
        (axes,) = drawn[-1].axes
        drawn[-1].canvas.draw()
        legend = axes.get_legend().get_window_extent()
        assert (legend.y1 > axes.bbox.y0) == inside
        assert len({line.get_color() for line in axes.lines}) == count
        plots.plt.close(drawn[-1])


@pytest.mark.parametrize(
    'values',
    [[0.0], [0.0, 0.0, 0.0], [5.0, float('nan'), 4.0], [float('nan')]],
    ids=str,
)
def test_curves_of_odd_values(values):
    # One step, a line that never moves, and a run that diverged.
    metrics = columns({'step': i, 'x': v} for i, v in enumerate(values))
    image = pixels(plots.curves({'': metrics}, {'x': ''}, 'x'))
    assert np.std(image) > 0.01


def test_no_curves():
    assert plots.curves({'a': METRICS}, {'absent': 'x'}, 'y') is None
    assert plots.curves({}, {'train/loss': ''}, 'y') is None
    assert load_map(METRICS, []) is None
    assert plt.get_fignums() == []


@pytest.mark.parametrize('steps', [1, 4])
def test_load_map(steps):
    # Three experts, from top to bottom: no load, the uniform share, twice as
    # much: blue, white, red. The first picture column is the layer's.
    metrics = columns(
        {'step': i + 1, 'moe/layer_0/load': [0.0, 1.0, 2.0]}
        for i in range(steps)
    )
    image = pixels(load_map(metrics, [0]))[..., :3]
    column = image[:, image.shape[1] // 3]
    red, blue = column[:, 0], column[:, 2]
    is_blue, is_red = blue - red > 0.2, red - blue > 0.2
    assert np.sum(is_blue) > 10
    assert np.sum(is_red) > 10
    # Blue above red, and white between, for a third of the map.
    last, first = np.flatnonzero(is_blue)[-1], np.flatnonzero(is_red)[0]
    between = column[last + 3 : first - 2]
    assert len(between) > 10
    np.testing.assert_allclose(between, 1, atol=0.05)


def test_load_map_of_several_layers():
    one = pixels(load_map(METRICS, [1]))
    two = pixels(load_map(METRICS, list(runs.LAYERS)))
    assert two.shape[0] > 1.3 * one.shape[0]


def test_against(monkeypatch):
    # Two values of a field of numbers, 8 apart: a scale of powers, the line
    # through the means 3 and 5; another line has a point of its own.
    drawn = []
    monkeypatch.setattr(plots, '_png', lambda figure: drawn.append(figure))
    points = [(8, 5.0, ''), (1, 2.0, ''), (1, 4.0, ''), (8, 1.0, 'x=1')]
    plots.against(points, 'experts', 'loss')
    (axes,) = drawn[0].axes
    assert axes.get_xscale() == 'log'
    assert axes.get_xlabel() == 'experts'
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ['1', '8']
    mean, dots, other, dot = axes.lines
    assert mean.get_xydata().tolist() == [[1, 3], [8, 5]]
    assert dots.get_xydata().tolist() == [[8, 5], [1, 2], [1, 4]]
    assert other.get_xydata().tolist() == dot.get_xydata().tolist() == [[8, 1]]
    plots.plt.close(drawn[0])


def test_against_words(monkeypatch):
    # Words have places, in the order in which they come.
    drawn = []
    monkeypatch.setattr(plots, '_png', lambda figure: drawn.append(figure))
    plots.against([('b', 1.0, ''), ('a', 2.0, '')], 'router', 'loss')
    (axes,) = drawn[0].axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ['b', 'a']
    assert axes.lines[0].get_xydata().tolist() == [[0, 1], [1, 2]]
    plots.plt.close(drawn[0])
    assert plots.against([], 'router', 'loss') is None


def test_against_nothing(monkeypatch):
    # 0 has no place on a scale of powers: side by side, in order.
    drawn = []
    monkeypatch.setattr(plots, '_png', lambda figure: drawn.append(figure))
    plots.against([(0.01, 1.0, ''), (0.0, 2.0, '')], 'rate', 'loss')
    (axes,) = drawn[0].axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [
        '0.0',
        '0.01',
    ]
    assert axes.lines[0].get_xydata().tolist() == [[0, 2], [1, 1]]
    plots.plt.close(drawn[0])


def test_a_single_value_is_seen():
    # No line leads to it and there is no legend: the dot alone is coloured.
    metrics = columns([{'step': 4, 'x': 2.0}])
    image = plots.curves({'': metrics}, {'x': ''}, 'x')
    assert np.sum(np.ptp(pixels(image)[..., :3], axis=-1) > 0.3) > 10


@pytest.mark.parametrize(
    ('values', 'still'),
    [
        ([3.25, 3.25, 3.25 * (1 + 1e-7)], True),
        ([0.0, 0.0], True),
        ([float('nan')], True),
        ([], True),
        ([0.0, 1e-3], False),
        ([1.0, float('nan'), 2.0], False),
        ([[0.0, 1.0], [0.0, 1.0]], False),
    ],
    ids=str,
)
def test_constant(values, still):
    assert plots.constant(np.array(values, float)) == still


def test_colours_of_numbers_of_any_range():
    # From 0 up, or around 0; all panels share the scale.
    up = plots.colours_of([np.array([0.0, 2.0]), np.array([[8.0]])])['norm']
    assert (up.vmin, up.vmax) == (0.0, 8.0)
    both = plots.colours_of([np.array([-3.0, 2.0])])['norm']
    assert (both.vmin, both.vmax) == (-3.0, 3.0)
    nothing = plots.colours_of([np.zeros(2)])['norm']
    assert (nothing.vmin, nothing.vmax) == (0.0, 1.0)


def test_a_long_line_keeps_its_peaks(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, '_png', lambda figure: drawn.append(figure))
    steps = np.arange(100_000)
    values = np.zeros(100_000)
    values[[777, 54_321]] = 9.0, -9.0
    values[5:8] = np.nan
    plots.curves({'': {'x': Column(steps, values)}}, {'x': ''}, 'x')
    (line,) = drawn[0].axes[0].lines
    points = line.get_xydata()
    plots.plt.close(drawn[0])
    assert len(points) < 1100
    assert {(777.0, 9.0), (54_321.0, -9.0), (99_999.0, 0.0)} <= {
        tuple(point) for point in points
    }


def test_a_long_map_has_means(monkeypatch):
    # Two steps of three for each column; the third is as long.
    drawn = []
    monkeypatch.setattr(plots, '_with_bar', lambda f, *a: drawn.append(f))
    count = 3 * plots.SPANS
    steps = np.arange(count)
    values = np.stack([steps % 3, 0 * steps], axis=-1).astype(float)
    plots.expert_map({'a': Column(steps, values)}, 'x', plots.GATES)
    (image,) = drawn[0].axes[0].images
    np.testing.assert_allclose(image.get_array()[0], np.ones(plots.SPANS))
    np.testing.assert_allclose(image.get_array()[1], np.zeros(plots.SPANS))
    plots.plt.close(drawn[0])


def test_layers_of_other_steps_share_a_map(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, '_with_bar', lambda f, *a: drawn.append(f))
    one = Column(np.array([0, 2]), np.array([1.0, 3.0]))
    two = Column(np.array([0, 1, 2]), np.array([0.0, 5.0, 6.0]))
    plots.layer_map({'a': two, 'b': one}, 'x', plots.GATES)
    (image,) = drawn[0].axes[0].images
    np.testing.assert_allclose(image.get_array(), [[0, 5, 6], [1, 2, 3]])
    plots.plt.close(drawn[0])


def test_matrices(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, '_with_bar', lambda f, *a: drawn.append(f))
    panels = {name: np.full((2, 2), i / 2) for i, name in enumerate('abc')}
    plots.matrices(panels, 'x', plots.GATES, xlabel='other', rows=['r', 's'])
    titles = [axes.get_title() for axes in drawn[0].axes]
    assert titles == ['a', 'b', 'c']
    names = [t.get_text() for t in drawn[0].axes[0].get_yticklabels()]
    assert names == ['r', 's']
    plots.plt.close(drawn[0])
    assert plots.matrices({}, 'x', plots.GATES, xlabel='y') is None

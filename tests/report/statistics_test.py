"""Statistics of mixtures: all that is logged is shown, whoever logs it."""

import html
import re

import numpy as np

from moe.report import Run, plots, statistics
from tests.report import runs


def shown(folder, metrics):
    """Captions of the figures, and the line of what never moves."""
    text = ''.join(statistics.figures(Run(runs.write(folder, metrics))))
    text = html.unescape(text)
    still = re.findall('The same at every step: (.*)[.]</p>', text)
    return re.findall('<figcaption>(.*?)</figcaption>', text), still


LOADS = (
    'Load of every expert over time: white is the uniform share, red more, '
    'blue less.'
)

ENTROPY = (
    "Entropy of the router's distribution in nats, mean over tokens: 0 is "
    'certain, ln(experts) undecided.'
)


def test_built_in_statistics(tmp_path):
    # The largest load is in the map; nothing is dropped at any step.
    captions, still = shown(tmp_path / 'run', list(runs.lines()))
    assert captions == [
        LOADS,
        ENTROPY,
        'Largest load over the mean load, minus 1.',
    ]
    assert still == ['dropped 0']


def test_statistics_of_a_plugin(tmp_path):
    # A scalar that moves, one that does not, and states of every expert.
    lines = [
        {
            **line,
            'moe/layer_1/threshold': line['step'] / 10,
            'moe/layer_1/temperature': 0.5,
            'moe/layer_3/temperature': 0.5,
            'moe/layer_1/bias': [-0.25, 0.25 * line['step']],
            'moe/layer_1/prior': [0.5, 0.5],
        }
        for line in runs.lines()
    ]
    captions, still = shown(tmp_path / 'run', lines)
    assert captions == [
        LOADS,
        'bias of every expert over time.',
        ENTROPY,
        'Largest load over the mean load, minus 1.',
        'threshold by mixture layer.',
    ]
    assert still == ['prior 0.5, dropped 0, temperature 0.5']


def test_scalars_that_differ_between_layers_are_drawn(tmp_path):
    lines = [
        {**line, 'moe/layer_1/x': 1.0, 'moe/layer_3/x': 2.0}
        for line in runs.lines()
    ]
    captions, still = shown(tmp_path / 'run', lines)
    assert captions[-1] == 'x by mixture layer.'
    assert still == ['dropped 0']


def test_panels_show_what_each_layer_logged(tmp_path, monkeypatch):
    drawn = {}

    def fake(panels, label, colours):
        drawn[label] = panels, colours

    monkeypatch.setattr(plots, 'expert_map', fake)
    shown(
        tmp_path / 'run',
        [{**line, 'moe/layer_3/bias': [-1.0, 4.0]} for line in runs.lines()],
    )
    panels, colours = drawn['load / uniform share']
    assert list(panels) == ['layer 1', 'layer 3']
    assert colours is plots.LOADS
    np.testing.assert_array_equal(panels['layer 1'].values, [[0.5, 1.5]] * 4)
    panels, colours = drawn['bias']
    assert list(panels) == ['layer 3']
    assert (colours['norm'].vmin, colours['norm'].vmax) == (-4.0, 4.0)


def test_dense_run_has_none(tmp_path):
    lines = [{'step': 1, 'train/loss': 2.0}]
    assert shown(tmp_path / 'run', lines) == ([], [])

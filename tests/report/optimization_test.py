"""Curves of the optimizer."""

import re

from moe.report import Run, optimization, plots
from tests.report import runs


def test_all_that_is_logged_of_the_optimizer(tmp_path, monkeypatch):
    lines = [
        {
            **line,
            'train/learning_rate': 0.1,
            'train/grad_norm': 1.0,
            'train/grad_norm/router': 0.5,
            'train/param_norm': 3.0,
            'train/skipped': float(line['step'] > 3),
        }
        for line in runs.lines()
    ]
    drawn = []
    monkeypatch.setattr(
        plots, 'curves', lambda runs, names, *_, **__: drawn.append(names)
    )
    one = Run(runs.write(tmp_path / 'one', lines))
    optimization.optimization({'one': one})
    assert drawn == [
        {'train/learning_rate': ''},
        {'train/grad_norm': 'all', 'train/grad_norm/router': 'router'},
        {'train/param_norm': ''},
        {'train/skipped': ''},
    ]
    # Of two runs a line each, without the parts.
    drawn.clear()
    optimization.optimization({'one': one, 'two': one})
    assert drawn[1] == {'train/grad_norm': ''}


def test_captions(tmp_path):
    # No update was left out, and no norm of the parameters is known.
    lines = [
        {**line, 'train/learning_rate': 0.1, 'train/grad_norm': 1.0}
        for line in runs.lines()
    ]
    run = Run(runs.write(tmp_path / 'one', lines))
    text = optimization.optimization({'one': run})
    captions = re.findall('<figcaption>(.*?)</figcaption>', text)
    assert captions == [
        'Learning rate of each step.',
        'Norm of the gradient before clipping.',
    ]

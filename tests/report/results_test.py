"""Losses and evaluation metrics: whatever is logged is drawn."""

import re

from moe.report import Run, results
from tests.report import runs
from tests.report.page_test import overview, page


def test_whatever_is_logged_is_plotted(tmp_path):
    # An evaluation metric, one of training too, an auxiliary loss and a loss
    # with a coefficient that does not move, of a plugin; a loss that neither
    # moves nor has a coefficient is left out.
    own = {
        'eval/top_5': 0.5,
        'eval/accuracy': 0.25,
        'train/accuracy': lambda step: 1.0 / step,
        'train/mine': lambda step: 1.0 / step,
        'train/weighted': 2.0,
        'train/still': 2.0,
        'train/grad_norm': lambda step: 1.0 / step,
    }
    lines = [
        m | {k: v(m['step']) if callable(v) else v for k, v in own.items()}
        for m in runs.lines()
    ]
    folder = runs.write(tmp_path / 'one', lines, losses={'weighted': 1.0})
    text, parsed = page(folder)
    captions = re.findall('<figcaption>(.*?)</figcaption>', text)
    assert captions[:7] == [
        'Loss, without the auxiliary terms.',
        'Validation top 5.',
        'Accuracy in training and validation.',
        'Validation bits/byte.',
        'Load balance, mean over the mixture layers; not in the objective.',
        'Mine, mean over the mixture layers; not in the objective.',
        'Weighted, mean over the mixture layers; its coefficient in the '
        'objective is 1.',
    ]
    assert captions[7] == 'Norm of the gradient before clipping.'
    assert not {'Still', 'Grad norm', 'Router z'} & {
        caption.partition(',')[0] for caption in captions
    }
    assert overview(parsed)['one']['validation top 5'] == '0.5000'


def test_coefficients_that_differ_between_runs(tmp_path):
    one = Run(runs.write(tmp_path / 'one'))
    two = Run(runs.write(tmp_path / 'two', losses={'load_balance': 0.5}))
    text = results.auxiliary_losses({'one': one, 'two': two})
    assert (
        'Load balance, mean over the mixture layers; its coefficient in the '
        'objective is 0.01 in one, 0.5 in two.'
    ) in text


def test_losses_of_outputs(tmp_path):
    # Of two depths of multi-token prediction, each has half of the weight.
    own = {'train/output_z': 25.0, 'train/mtp_1': lambda step: 1.0 / step}
    lines = [
        m | {k: v(m['step']) if callable(v) else v for k, v in own.items()}
        for m in runs.lines()
    ]
    run = Run(runs.write(tmp_path / 'one', lines, losses={'output_z': 0.5}))
    run.config['model'] = {'mtp': {'depth': 2, 'weight': 0.5}}
    text = results.auxiliary_losses({'one': run})
    of = 'mean over the targets; its coefficient in the objective is'
    assert f'Output z, {of} 0.5.' in text
    assert f'Mtp 1, {of} 0.25.' in text

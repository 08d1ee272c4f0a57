"""`best` finds the checkpoint with the best metric."""

import json

import pytest

from moe.checkpoints.__main__ import main
from moe.training.folder import write_plain_config
from tests import tiny
from tests.checkpoints.verify_test import damaged
from tests.training import damage

# Step 3 has no checkpoint, the metric of step 6 is no number.
LOSSES = {2: 3.0, 3: 1.0, 4: 2.0, 6: float('nan')}


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp('saved')
    damage.save(folder, 2, 4, 6)
    write_plain_config(folder, tiny.plain())
    lines = [
        {'step': s, 'eval/loss': v, 'eval/accuracy': v}
        for s, v in LOSSES.items()
    ]
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (folder / 'metrics.jsonl').write_text(text)
    return folder


def best(folder, *flags):
    return main(['', 'best', str(folder), '--metric=eval/loss', *flags])


def test_lower_is_better(saved, capsys):
    assert best(saved) == 0
    line = capsys.readouterr().out
    assert line == f'step 4  eval/loss 2  {saved}/checkpoints/4\n'


def test_one_that_is_damaged_is_not_best(saved, tmp_path, capsys):
    assert best(damaged(saved, tmp_path / 'run', '4')) == 0
    assert capsys.readouterr().out.startswith('step 2  eval/loss 3 ')


def test_a_metric_that_was_not_logged(saved, capsys):
    # By default it is the first of the workload.
    assert main(['', 'best', str(saved)]) == 2
    err = capsys.readouterr().err
    assert "--metric = 'eval/perplexity'" in err or 'bits_per_byte' in err
    assert '(there: eval/loss, eval/accuracy)' in err

"""The checkpoints of a run in the order of a metric."""

import json

import pytest

from moe.config import ConfigError
from moe.training import best
from moe.training.record import Damage
from moe.training.restore import Entry

VALUES = {1: 3.0, 2: 1.0, 3: 2.0, 4: float('nan'), 5: 1.0}


def entry(folder, step, damaged=False):
    damage = Damage(str(folder / str(step)), 'x', 'y') if damaged else None
    return Entry(folder / str(step), step, damage)


def write(folder, values):
    lines = [{'step': s, 'eval/a': v} for s, v in values.items()]
    lines[-1]['eval/moe/layer_0/load'] = [1.0]
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (folder / 'metrics.jsonl').write_text(text)


@pytest.mark.parametrize(
    ('higher', 'steps'), [(False, [5, 2, 1]), (True, [1, 5, 2])]
)
def test_order(tmp_path, monkeypatch, higher, steps):
    # Newest first, as `list_checkpoints` has them; 3 is damaged, 6 not logged.
    found = [entry(tmp_path, s, s == 3) for s in (6, 5, 4, 3, 2, 1)]
    monkeypatch.setattr(best, 'list_checkpoints', lambda workdir: found)
    write(tmp_path, VALUES)
    pairs = best.by_metric(tmp_path, 'eval/a', higher)
    assert [entry.step for _, entry in pairs] == steps
    assert [value for value, _ in pairs] == [VALUES[step] for step in steps]


def test_one_that_was_not_logged(tmp_path):
    write(tmp_path, VALUES)
    with pytest.raises(ConfigError, match=r'\(there: eval/a\)'):
        best.by_metric(tmp_path, 'eval/b', False)

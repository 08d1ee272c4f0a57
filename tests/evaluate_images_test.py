"""The command that evaluates, on a run on images: classes and capacities."""

import json

import numpy as np
import pytest

import moe
from moe import evaluate
from tests import tiny
from tests.workloads.load_test import saved
from tests.workloads.vision.run_of_images import state
from tests.workloads.vision.workload_test import plain

pytestmark = pytest.mark.slow

CLASSES = 7


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A run of random parameters."""
    base = tmp_path_factory.mktemp('runs')
    x, y = tiny.numbers((56, 4, 4), 0), np.arange(56) % CLASSES
    given = {'x': x[:35], 'y': y[:35], 'x_val': x[35:], 'y_val': y[35:]}
    np.savez(base / 'images.npz', **given)
    changes = {'model.num_classes': CLASSES, 'model.moe.capacity': 'dropless'}

    config = plain(str(base / 'images.npz'), **changes)
    return saved(base / 'run', config, make=state)


@pytest.fixture(scope='module')
def validation(folder):
    """The run opened, its validation images, and their labels."""
    run = moe.load(folder)
    data = run.workload.load_data()
    return run, data.val_x, data.val_y


def evaluated(folder, *flags, name='step-1.json'):
    assert evaluate.main(['', f'--workdir={folder}', *flags]) == 0
    return json.loads((folder / 'evaluations' / name).read_text())


def test_classes(folder, validation):
    run, images, labels = validation
    logits = run.logits(images)
    guess, found = np.argmax(logits, axis=-1), evaluated(folder)
    better = np.sum(logits > logits[np.arange(len(labels)), labels, None], -1)
    metrics, classes = found['metrics'], found['classes']
    assert metrics['eval/accuracy'] == pytest.approx(np.mean(better == 0))
    assert metrics['eval/top_5_accuracy'] == pytest.approx(np.mean(better < 5))
    for c in range(CLASSES):
        of = labels == c
        assert classes['images'][c] == np.sum(of) == 3
        right = np.sum(guess[of] == c)
        assert classes['accuracy'][c] == pytest.approx(right / 3)


def dropped(run, images, capacity):
    """The share of assignments beyond so many an expert and image, counted."""
    (layer,) = run.routing(images)
    lost = count = 0
    for image in layer.chosen:  # [S, E]
        for assignments in image.T:
            count += np.sum(assignments)
            lost += max(np.sum(assignments) - capacity, 0)
    return lost / count


def test_capacities_of_a_dropless_run(folder, validation, capsys):
    # Four patches, two of four experts each: capacity is twice the factor.
    run, images, labels = validation
    flag = '--capacities=0.5,2'
    found = evaluated(folder, flag, name='capacity-step-1.json')
    out = capsys.readouterr().out
    assert 'step 1: accuracy by capacity factor' in out
    rows = {(r['factor'], r['prioritized']): r for r in found['rows']}
    whole = np.mean(np.argmax(run.logits(images), axis=-1) == labels)
    lost = dropped(run, images, 1)
    assert 0.1 < lost < 0.9
    for (factor, _), row in rows.items():
        if factor == 0.5:
            assert row['dropped'] == pytest.approx(lost)
        else:  # as many as there are patches
            assert (row['dropped'], row['value']) == (0, pytest.approx(whole))
    assert len(rows) == 5
    assert (found['step'], found['metric']) == (1, 'accuracy')


@pytest.mark.parametrize(
    ('flag', 'told'),
    [
        ('--capacities=0.5,none', '--capacities = 0.5,none: must be numbers'),
        ('--capacities=0', 'must be numbers above 0, with commas between'),
        ('--max_batches=0', 'max_batches = 0: must be'),
    ],
)
def test_mistakes_are_one_line(folder, capsys, flag, told):
    assert evaluate.main(['', f'--workdir={folder}', flag]) == 2
    err = capsys.readouterr().err
    assert told in err.replace("'", '')
    assert err.count('\n') == 1

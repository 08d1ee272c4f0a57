"""The command that evaluates, on a run on images.

Classes, capacities and few-shot evaluation.
"""

import functools
import json

import jax
import numpy as np
import pytest

import moe
from moe import evaluate
from moe.parallel import make_mesh
from moe.workloads.vision import few_shot
from tests import tiny
from tests.reference import few_shot as reference
from tests.workloads.load_test import saved
from tests.workloads.vision.run_of_images import ONE_BLOCK, state
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

    config = plain(str(base / 'images.npz'), **ONE_BLOCK, **changes)
    made = saved(base / 'run', config, make=state)
    with pytest.MonkeyPatch.context() as patch:  # soon compiled
        one = functools.partial(make_mesh, devices=jax.devices()[:1])
        patch.setattr('moe.workloads.opened.make_mesh', one)
        yield made


@pytest.fixture(scope='module')
def validation(folder):
    """The run opened, its validation images, and their labels."""
    run = moe.load(folder)
    data = run.workload.load_data()
    return run, data.val_x, data.val_y


def evaluated(folder, *flags, name='step-1.json'):
    assert evaluate.main(['', f'--workdir={folder}', *flags]) == 0
    return json.loads((folder / 'evaluations' / name).read_text())


def test_classes(folder, validation, capsys):
    run, images, labels = validation
    logits = run.logits(images)
    guess, found = np.argmax(logits, axis=-1), evaluated(folder)
    better = np.sum(logits > logits[np.arange(len(labels)), labels, None], -1)
    metrics, classes = found['metrics'], found['classes']
    assert metrics['eval/accuracy'] == pytest.approx(np.mean(better == 0))
    assert metrics['eval/top_5_accuracy'] == pytest.approx(np.mean(better < 5))
    shares = []
    for c in range(CLASSES):
        of = labels == c
        assert classes['images'][c] == np.sum(of) == 3
        right = np.sum(guess[of] == c)
        shares.append(right / 3)
        assert classes['accuracy'][c] == pytest.approx(right / 3)
    span = f'{min(shares):.4f} to {max(shares):.4f}, mean {np.mean(shares):.4f}'
    assert f'  classes: accuracy {span}\n' in capsys.readouterr().out


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
    flag = '--capacities=0.5'
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
        else:
            assert (row['dropped'], row['value']) == (0, pytest.approx(whole))
    assert set(rows) == {(None, False), (0.5, False), (0.5, True)}
    assert (found['step'], found['metric']) == (1, 'accuracy')


def test_few_shot_of_other_classes(folder, validation, tmp_path, capsys):
    # Eight classes, one more than the run's, standardised as the run's images.
    run, *_ = validation
    numbers = run.workload.load_data().standard
    x, y = 3 + tiny.numbers((40, 4, 4), 2), np.arange(40) % 8
    given = {'x': x[:24], 'y': y[:24], 'x_val': x[24:], 'y_val': y[24:]}
    np.savez(tmp_path / 'other.npz', **given)
    run.preparation.write(folder)
    found = evaluated(
        folder,
        '--few_shot=1,2',
        '--draws=3',
        f'--config.data.source.files={tmp_path}/other.npz',
        name='few-shot-step-1.json',
    )
    apply = functools.partial(run.model.apply, head=False)
    standard = np.float32((x - numbers.mean) / numbers.deviation)[..., None]
    represented = np.float64(jax.jit(apply)(run.variables, standard)[0])
    for row, shots in zip(found['rows'], (1, 2), strict=True):
        desired = []
        for draw in range(3):
            rows = few_shot.select(y[:24].__getitem__, 24, 8, shots, draw)
            rows = np.concatenate(rows)
            assert len(rows) == 8 * shots
            own = represented[rows], y[rows], represented[24:]
            guess, _ = reference.classes(*own, 8, 1024.0)
            desired.append(np.mean(guess == y[24:]))
        assert row['accuracies'] == pytest.approx(desired)
        assert row['mean'] == pytest.approx(sum(desired) / 3)
        assert row['fewest'] == shots
    assert (found['images'], found['draws']) == (16, 3)
    assert 'over 3 draws' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('flag', 'told'),
    [
        ('--capacities=0.5,none', '--capacities = 0.5,none: must be numbers'),
        ('--capacities=0', 'must be numbers above 0, with commas between'),
        ('--few_shot=1.5', 'must be whole numbers above 0'),
        ('--max_batches=0', 'max_batches = 0: must be'),
    ],
)
def test_mistakes_are_one_line(folder, capsys, flag, told):
    assert evaluate.main(['', f'--workdir={folder}', flag]) == 2
    err = capsys.readouterr().err
    assert told in err.replace("'", '')
    assert err.count('\n') == 1

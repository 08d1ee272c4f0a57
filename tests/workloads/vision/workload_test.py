"""The image task: sums, checks against the model, and a run to its page."""

import dataclasses
import functools
import pathlib

import jax
import numpy as np
import pytest

from configs import vision
from moe import training
from moe.config import ConfigError
from moe.metrics import read_metrics
from moe.training.eval_metrics import is_higher_better
from moe.training.evaluation import evaluate
from moe.workloads import reports
from moe.workloads.vision.confusion import Confusion
from tests import tiny
from tests.workloads.vision.run_of_images import state

pytestmark = pytest.mark.slow

FAST = ('vmoe', 'dense')  # of the variants
SMALL = {
    'steps': 3,
    'seed': 0,
    'model.image_size': 4,
    'model.num_classes': 3,
    'model.d_model': 8,
    'model.num_layers': 2,
    'model.num_heads': 2,
    'model.num_kv_heads': 2,
    'model.dense.hidden': 8,
    'model.moe.num_experts': 4,
    'model.moe.experts.hidden': 8,
    'data.batch_size': 8,
    'optimizer.schedule.warmup_steps': 1,
    'log_every': 1,
    'eval_every': 3,
    'checkpoint_every': 3,
}


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> str:
    """40 images of three classes: bright left, bright right, or even."""
    draw = np.random.default_rng(0)
    y = draw.integers(0, 3, 40)
    x = draw.uniform(0, 0.2, (40, 4, 4))
    x[y == 0, :, :2] += 1
    x[y == 1, :, 2:] += 1
    path = tmp_path_factory.mktemp('images') / 'images.npz'
    np.savez(path, x=np.float32(x), y=y)
    return str(path)


def plain(files, variant='vmoe', **changes):
    config = vision.get_config(variant)
    source = {'name': 'npz', 'files': files, 'val_fraction': 0.25}
    return tiny.changed(config, {**SMALL, 'data.source': source, **changes})


@pytest.mark.parametrize(
    'variant',
    [
        pytest.param(name, marks=() if name in FAST else pytest.mark.long)
        for name in vision.VARIANTS
    ],
)
def test_variants_run_to_their_page(files, tmp_path, variant):
    curve = {'capacity_curve': {'factors': ()}}  # without drops alone
    config = plain(files, variant, **(curve if variant == 'vmoe' else {}))
    assert training.run(tiny.check(config), tmp_path)
    last = read_metrics(tmp_path / 'metrics.jsonl')[-1]
    assert np.isfinite(last['train/loss'])
    table = Confusion.read(tmp_path / 'confusion.json').matrix
    assert table.sum() == 10  # a quarter of 40
    np.testing.assert_allclose(
        last['eval/accuracy'], np.trace(table) / 10, rtol=1e-6
    )
    shown = f'{last["eval/accuracy"]:.4f} accuracy'
    assert shown in reports.summary(tmp_path)
    page = pathlib.Path(reports.write(tmp_path)).read_text()
    assert 'Confusion matrix' in page
    assert 'validation accuracy' in page
    assert (last.get('moe/layer_1/load') is None) == (variant == 'dense')
    assert ('Accuracy against capacity' in page) == (variant == 'vmoe')


def test_sums_by_hand(files):
    # Of two images with a mask, the first counts.
    config = tiny.check(plain(files, 'dense'))
    workload = config.make_workload()
    variables = workload.init(jax.random.key(0))
    head = np.zeros((8, 3), np.float32)
    params = {**variables['params'], 'head': head}
    params['head_bias'] = np.log(np.float32([1, 2, 1]))
    batch = {
        'image': np.zeros((2, 4, 4, 1), np.float32),
        'label': np.int32([1, 0]),
        'mask': np.array([True, False]),
    }
    out = workload.forward({'params': params}, batch)
    # The bias alone: probabilities 1/4, 1/2, 1/4.
    loss, right = out.means['loss'], out.means['accuracy']
    np.testing.assert_allclose(loss.sum, np.log(2), rtol=1e-6)
    assert (loss.count, right.sum, right.count) == (1, 1, 1)
    assert out.aux is None
    logits, labels, mask = out.predictions['']
    np.testing.assert_allclose(logits, np.log([2 * [[1, 2, 1]]][0]), 1e-6)
    np.testing.assert_array_equal(labels, [1, 0])
    np.testing.assert_array_equal(mask, [True, False])
    del batch['mask']
    means, rows, statistics = evaluate(workload, (), {'params': params}, batch)
    loss, right = means['loss'], means['accuracy']
    np.testing.assert_allclose(loss.sum, np.log(2) + np.log(4), rtol=1e-6)
    assert (loss.count, right.sum, right.count) == (2, 1, 2)
    assert statistics is None
    # The second class is the likeliest; of three there are no five likeliest.
    assert {name: row.tolist() for name, row in rows.items()} == {
        'label': [1, 0],
        'guess': [1, 1],
        'mask': [True, True],
    }
    assert set(means) == {'loss', 'accuracy'}
    # A class of three: of none right, of one right, and without an image.
    kept = workload.eval_details(jax.device_get(rows))['classes']
    assert kept['accuracy'] == [0.0, 1.0, None]
    assert kept['confused'] == [[0, 1, 1]]
    # Of a mixed image, and smoothed in training alone.
    workload = dataclasses.replace(config, label_smoothing=0.3).make_workload()
    batch = {name: rows[:1] for name, rows in batch.items()}
    batch |= {'other': np.int32([0]), 'weight': np.float32([0.75])}
    mixed = 0.75 * np.log(2) + 0.25 * np.log(4)
    uniform = (np.log(2) + 2 * np.log(4)) / 3
    for train, loss in ((False, mixed), (True, 0.7 * mixed + 0.3 * uniform)):
        means = workload.forward({'params': params}, batch, train=train).means
        np.testing.assert_allclose(means['loss'].sum, loss, rtol=1e-6)
        assert means['accuracy'].sum == 1


def test_top_5_of_seven_classes(files):
    config = tiny.check(plain(files, 'dense', **{'model.num_classes': 7}))
    workload = config.make_workload()
    params = state(config).params
    # Classes 6, 5, 4, 3, 2 are the likeliest, in this order.
    params |= {'head': np.zeros((8, 7), 'f4'), 'head_bias': np.arange(7.0)}
    batch = {
        'image': np.zeros((4, 4, 4, 1), np.float32),
        'label': np.int32([6, 2, 1, 3]),
        'mask': np.array([True, True, True, False]),
    }
    forward = lambda train, params: (
        workload.forward({'params': params}, batch, train=train).means
    )
    found = jax.jit(functools.partial(forward, False))(params)
    top, accuracy = found['top_5_accuracy'], found['accuracy']
    assert (top.sum, top.count) == (2, 3)
    assert (accuracy.sum, accuracy.count) == (1, 3)
    trained = jax.eval_shape(functools.partial(forward, True), params)
    assert set(trained) == {'loss', 'accuracy'}
    assert is_higher_better(workload, 'eval/top_5_accuracy')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            {'model.image_size': 8},
            "must be the images' (4 x 4 pixels, 1 channels)",
        ),
        ({'model.channels': 3}, "must be the images' (4 x 4 pixels"),
        (
            {'model.num_classes': 2},
            "config.model.num_classes = 2: must be at least the images' 3",
        ),
    ],
)
def test_images_that_do_not_fit_the_model(files, tmp_path, change, message):
    config = plain(files, **change)
    with pytest.raises(ConfigError) as caught:
        training.run(tiny.check(config), tmp_path / 'run')
    assert message in str(caught.value)
    assert not (tmp_path / 'run').exists()


def test_routers_that_images_cannot_serve():
    router = 'hash'
    with pytest.raises(ConfigError) as caught:
        tiny.check(vision.get_config(f'vmoe,{router}').to_dict())
    assert caught.value.field == 'config.model.moe.router.name'
    assert caught.value.value == router


def test_note_of_images_that_validate_too(tmp_path):
    # Six images, of which the second and third validate, and one more.
    x = np.random.default_rng(0).uniform(size=(8, 4, 4))
    y = np.arange(8) % 3
    given = {'x': x[:6], 'y': y[:6], 'x_val': x[[1, 7, 2]], 'y_val': y[:3]}
    path = tmp_path / 'images.npz'
    np.savez(path, **given)
    changes = {'data.source': {'name': 'npz', 'files': str(path)}}
    changes['data.batch_size'] = 2
    workload = tiny.check(plain(str(path), **changes)).make_workload()
    told = workload.notes(workload.load_data())
    assert told == ['2 of 3 validation images are trained on too']
    np.savez(path, **{**given, 'x_val': x[[7]], 'y_val': y[[7]]})
    assert workload.notes(workload.load_data()) == []

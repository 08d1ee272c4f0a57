"""The command that predicts, on the folder of a small run on images."""

import csv
import io
import json

import jax
import numpy as np
import pytest
from PIL import Image

import moe
from moe import predict
from moe.config import ConfigError
from tests import tiny
from tests.workloads.load_test import saved
from tests.workloads.vision.run_of_images import ONE_BLOCK, state
from tests.workloads.vision.workload_test import plain

pytestmark = pytest.mark.slow

CLASSES = ('ant', 'bee', 'cat')
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 4, 4), np.uint8)
# What nobody trained on: two images, and one of one colour that is larger.
OTHERS = np.random.default_rng(1).integers(0, 256, (2, 4, 4), np.uint8)
GREY = 77


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A run on folders of images, of random parameters."""
    base = tmp_path_factory.mktemp('runs')
    for i, pixels in enumerate(PIXELS):
        part = 'train' if i < 18 else 'val'
        path = base / 'photos' / part / CLASSES[i % 3] / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    new = base / 'new' / 'deep'
    new.mkdir(parents=True)
    Image.fromarray(OTHERS[0]).save(new.parent / 'a.png')
    Image.fromarray(OTHERS[1]).save(new.parent / 'b.bmp')
    Image.fromarray(np.full((8, 12), GREY, np.uint8)).save(new / 'c.jpg')
    (new.parent / 'notes.txt').write_text('no image')

    source = {'name': 'folder', 'files': str(base / 'photos')}
    config = plain('', **ONE_BLOCK, **{'data.source': source})
    saved(base / 'run', config, make=state)
    workload = tiny.check(config).make_workload()
    workload.save_assets(workload.load_data(), base / 'run')
    return base


@pytest.fixture(scope='module')
def opened(folder):
    """The run, opened once, so that its program is compiled once."""
    return moe.load(folder / 'run')


@pytest.fixture
def run(opened, monkeypatch):
    """The command on the run."""
    monkeypatch.setattr(predict, 'load', lambda *given: opened)
    return lambda *flags: predict.main(['', f'--workdir={folder}/run', *flags])


@pytest.fixture(scope='module')
def expected(opened):
    """The probabilities of the three classes of images of bytes."""
    numbers = PIXELS[:18].astype(float).ravel() / 255
    apply = jax.jit(opened.model.apply)
    mean = sum(numbers) / len(numbers)
    square = sum((x - mean) ** 2 for x in numbers) / len(numbers)

    def shares(images):
        standard = (images / 255 - mean) / np.sqrt(square)
        whole = np.zeros((12, 4, 4, 1), np.float32)  # one program for all
        whole[: len(images)] = standard[..., None]
        found = apply(opened.variables, whole)[0][: len(images)]
        powers = np.exp(np.float64(found))
        return powers / powers.sum(axis=-1, keepdims=True)

    return shares


def check(lines, shares):
    header, *rows = csv.reader(io.StringIO(lines))
    assert header == ['row', 'file', 'class', *(f'class:{c}' for c in CLASSES)]
    for row, own in zip(rows, shares, strict=True):
        assert row[2] == CLASSES[np.argmax(own)]
        np.testing.assert_allclose(np.float64(row[3:]), own, atol=1e-5)
    return [(row[0], row[1]) for row in rows]


def test_files_of_a_folder_at_any_depth(folder, run, expected, capsys):
    assert run(f'--input={folder}/new') == 0
    constant = np.full((1, 4, 4), GREY)  # of whatever size it was
    shares = expected(np.concatenate([OTHERS, constant]))
    assert np.ptp(shares, axis=0).min() > 1e-3  # the images tell
    names = check(capsys.readouterr().out, shares)
    files = ('a.png', 'b.bmp', 'deep/c.jpg')
    assert names == [
        (str(i), f'{folder}/new/{name}') for i, name in enumerate(files, 1)
    ]


def test_lines_of_json_with_the_likeliest(folder, run, expected, tmp_path):
    output = tmp_path / 'found.jsonl'
    given = [f'--input={folder}/new/*.*', f'--output={output}']
    flags = ['--format=jsonl', '--top=2', '--on_error=skip']
    assert run(*given, *flags) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row['row'] for row in rows] == [1, 2]  # not the text, the third
    for row, own in zip(rows, expected(OTHERS), strict=True):
        order = np.argsort(-own)
        assert row['class'] == CLASSES[order[0]]
        assert row['class_2'] == CLASSES[order[1]]
        assert row['probability'] == pytest.approx(own[order[0]], abs=1e-5)
        assert row['probability_2'] == pytest.approx(own[order[1]], abs=1e-5)


def test_arrays(run, expected, tmp_path, capsys):
    # More of them than a batch has, and after them a file.
    images = np.concatenate([OTHERS, PIXELS[:9]])
    np.savez(tmp_path / 'a.npz', x=images)
    Image.fromarray(OTHERS[0]).save(tmp_path / 'b.png')
    assert run(f'--input={tmp_path}') == 0
    shares = expected(np.concatenate([images, OTHERS[:1]]))
    names = check(capsys.readouterr().out, shares)
    assert [int(row) for row, _ in names] == [*range(1, 13)]
    assert names[-1][1] == str(tmp_path / 'b.png')


def test_bad_files_are_a_line_each(run, expected, tmp_path, capsys):
    (tmp_path / 'a.png').write_text('no image')
    Image.fromarray(OTHERS[0]).save(tmp_path / 'b.png')
    whole = (tmp_path / 'b.png').read_bytes()
    (tmp_path / 'c.png').write_bytes(whole[:50])
    (tmp_path / 'd.png').write_bytes(b'')
    given = f'--input={tmp_path}'
    assert run(given) == 2
    out, err = capsys.readouterr()
    line = f"moe.predict: image = '{tmp_path}/a.png': must be an image (it is "
    assert (out, err) == ('', f'{line}no image)\n')
    assert run(given, '--on_error=skip') == 0
    out, err = capsys.readouterr()
    assert check(out, expected(OTHERS[:1])) == [('2', f'{tmp_path}/b.png')]
    *each, last = err.splitlines()
    for name, told in zip('acd', each, strict=True):
        assert told.startswith(f"moe.predict: image = '{tmp_path}/{name}.png'")
    assert last == 'moe.predict: 3 images left out'


@pytest.mark.parametrize(
    ('flags', 'told'),
    [
        (['--input=no/such'], "--input = 'no/such': must be the path or a"),
        (['--top=4'], 'top = 4: must be 1 to the number of classes (3)'),
        (['--columns=a'], "--columns = ['a']: must be absent: it is for"),
        (['--input={}/small.npz'], '(they are uint8 [2, 3, 3])'),
        (['--input={}/y.npz'], 'must be an .npz file that has also x'),
        (['--input={}/run/checkpoints'], 'a folder with images (it has none)'),
    ],
    ids=str,
)
def test_mistakes_are_one_line(folder, run, capsys, flags, told):
    np.savez(folder / 'small.npz', x=np.zeros((2, 3, 3), np.uint8))
    np.savez(folder / 'y.npz', y=np.zeros(2, np.uint8))
    flags = [flag.format(folder) for flag in flags]
    assert run(f'--input={folder}/new', *flags) == 2
    out, err = capsys.readouterr()
    assert out == ''
    assert err.startswith('moe.predict: ')
    assert told in err
    assert err.count('\n') == 1


def test_runs_made_before_read_their_data_again(folder, opened):
    path = folder / 'run' / 'preprocessing.json'
    kept, text = opened.preparation, path.read_text()
    assert json.loads(text)['classes'] == list(CLASSES)
    try:
        path.unlink()
        again = moe.load(folder / 'run').preparation
        assert (again.center, again.classes) == (kept.center, kept.classes)
        np.testing.assert_array_equal(again.standard.mean, kept.standard.mean)
        path.write_text('{"mean": [0.5], "deviation": [0], "center": 1}')
        with pytest.raises(ConfigError, match='must be whole'):
            _ = moe.load(folder / 'run').preparation
    finally:
        path.write_text(text)

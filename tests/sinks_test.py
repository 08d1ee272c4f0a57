"""Where metrics go besides their file."""

import io
import sys
import types

import pytest
from matplotlib import pyplot as plt

from moe.config import ConfigError
from moe.metrics import Writer
from moe.sinks import WandB, WandBConfig, check_wandb
from tests import tiny
from tests.metrics_test import records


def images(workdir):
    """The images of TensorBoard's events: (step, tag, width) of each."""
    found = []
    for event in records(workdir):
        for value in event.summary.value:
            if value.WhichOneof('value') == 'image':
                png = io.BytesIO(value.image.encoded_image_string)
                height, width, _ = plt.imread(png, format='png').shape
                assert (value.image.height, value.image.width) == (
                    height,
                    width,
                )
                found.append((event.step, value.tag, width))
    return found


def test_loads_are_images_of_every_layer(tmp_path):
    writer = Writer(tmp_path, 0)
    for step in range(1, 6):
        line = {f'moe/layer_{i}/load': [0.5, 1.5] for i in (0, 3)}
        writer.write_scalars(step, line)
    writer.close()
    tags = [f'moe/layer_{i}/load_over_time' for i in (0, 3)]
    assert [found[:2] for found in images(tmp_path)] == [
        *((2, tag) for tag in tags),
        *((4, tag) for tag in tags),
        *((5, tag) for tag in tags),  # the last, up to the end
    ]


def test_images_go_on_where_a_run_resumes(tmp_path):
    # The fourth line of the run, and the second of this process.
    for start, steps in ((0, (1, 2)), (2, (3, 4))):
        writer = Writer(tmp_path, start)
        for step in steps:
            writer.write_scalars(step, {'moe/layer_0/load': [0.5, 1.5]})
        writer.close()
    widths = {step: width for step, _, width in images(tmp_path)}
    assert set(widths) == {2, 4}
    assert widths[2] == widths[4] == 256


class Run:
    """A stand-in for a run of the library."""

    def __init__(self, **given):
        self.given, self.logged, self.summary = given, [], {}
        self.finished = False

    def log(self, metrics, step):
        self.logged.append((step, metrics))

    def finish(self):
        self.finished = True


@pytest.fixture
def library(monkeypatch):
    found = types.ModuleType('wandb')
    found.runs = []

    class Error(Exception):
        pass

    def init(**given):
        if given['project'] == 'locked':
            raise Error('no key')
        found.runs.append(Run(**given))
        return found.runs[-1]

    found.init, found.Histogram = init, tuple
    found.errors = types.SimpleNamespace(Error=Error)
    monkeypatch.setitem(sys.modules, 'wandb', found)
    return found


def test_wandb(library, tmp_path):
    config = WandBConfig('project', 'offline')
    check_wandb(config)
    more = lambda: [WandB(config, tmp_path, {'steps': 3})]
    writer = Writer(tmp_path, 0, more=more)
    writer.write_scalars(2, {'train/loss': 0.5, 'moe/layer_0/load': [1.0, 3.0]})
    writer.write_texts(3, {'sample': 'def x'})
    writer.close()
    (run,) = library.runs
    assert run.logged == [
        (2, {'train/loss': 0.5, 'moe/layer_0/load': (1.0, 3.0)})
    ]
    assert run.summary == {'sample': 'def x'}
    assert run.finished
    given = run.given
    assert given['project'] == 'project'
    assert given['mode'] == 'offline'
    assert given['config'] == {'steps': 3}
    assert given['dir'] == str(tmp_path)
    # A run that goes on is the same one there.
    WandB(config, tmp_path, {})
    assert library.runs[1].given['id'] == given['id']
    assert library.runs[1].given['resume'] == 'allow'
    # Only the first process has it.
    Writer(tmp_path, 0, active=False, more=more)
    assert len(library.runs) == 2


def test_wandb_that_does_not_start(library, tmp_path):
    with pytest.raises(ConfigError, match='no key'):
        WandB(WandBConfig('locked'), tmp_path, {})


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    check_wandb(None)
    with pytest.raises(ConfigError, match='pip install'):
        check_wandb(WandBConfig())


def test_off_by_default():
    assert tiny.parsed().wandb is None
    found = tiny.parsed({'wandb': {'mode': 'offline'}}).wandb
    assert found == WandBConfig('moe', 'offline')

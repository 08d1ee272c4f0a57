"""The recipe of `configs/vision.py` on the digits, and what its docs say."""

import pathlib
import re

import pytest

from configs import cluttered, vision
from moe import training
from moe.metrics import read_metrics
from moe.workloads.vision.baselines import shown
from tests import tiny

PAGE = pathlib.Path(__file__).parents[3] / 'docs/explanation/routers.md'


def rows(heading):
    """Cells of the table below a heading of the page, by the first one."""
    text = PAGE.read_text().split(f'\n### {heading}\n')[1].split('\n#')[0]
    lines = [line for line in text.splitlines() if line.startswith('|')][2:]
    cells = [[c.strip() for c in line.strip('|').split('|')] for line in lines]
    return {first: rest for first, *rest in cells}


@pytest.mark.parametrize(
    ('heading', 'module'), [('Digits', vision), ('Cluttered digits', cluttered)]
)
def test_measured_accuracies_stand_beside_the_baselines(heading, module):
    found = rows(heading)
    baselines = {'1-nearest-neighbour', 'logistic regression'}
    assert baselines < set(found)
    measured = {name: row[0] for name, row in found.items()}
    for name in set(found) - baselines:
        # A mean and half of a 95 % interval, percent.
        assert re.fullmatch(r'\d\d\.\d ± \d+\.\d', measured[name]), name
    # The file that makes the runs says the same of its first variants.
    for name in ('vmoe', 'dense'):
        words = f'{name} {measured[name]}'
        assert words in ' '.join(module.__doc__.split()), words
    for name in baselines:
        assert re.fullmatch(r'\d\d\.\d', measured[name])


def test_the_recipe_is_the_digits():
    config = tiny.check(vision.get_config().to_dict())
    data = config.make_workload().load_data()
    assert data.train_x.shape == (1348, 8, 8, 1)
    # Pixels of a patch are standardised and its kernel has a variance of 1 /
    # fan-in, so that it and a position are of the same order.
    assert 0.1 < config.model.position_std <= 1


def test_the_harder_set_is_that_of_its_source():
    config = tiny.check(cluttered.get_config('dense').to_dict())
    data = {'train_images': 64, 'val_images': 16}
    source = cluttered.get_config().data.source.to_dict()
    changes = {'data.source': {**source, **data}}
    plain = tiny.changed(cluttered.get_config('dense'), changes)
    found = tiny.check(plain).make_workload().load_data()
    assert found.train_x.shape == (64, 16, 16, 1)
    assert config.model.num_patches == 16


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize('variant', ['vmoe', 'dense'])
def test_digits_are_learned(tmp_path, variant):
    # Two minutes on two cores each.
    config = tiny.check(vision.get_config(variant).to_dict())
    assert training.run(config, tmp_path)
    last = read_metrics(tmp_path / 'metrics.jsonl')[-1]
    assert last['eval/accuracy'] > 0.98
    assert shown(tmp_path)['1-nearest-neighbour'] == '0.9911'

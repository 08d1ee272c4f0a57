"""The container: what it is made of; hadolint reads the rest in `make lint`."""

import pathlib
import re
import tomllib

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent
DOCKERFILE = (ROOT / 'Dockerfile').read_text()
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())


def instructions(name):
    """What stands after an instruction, wherever it is given."""
    joined = DOCKERFILE.replace('\\\n', ' ')
    return re.findall(rf'^{name} (.*)$', joined, re.MULTILINE)


def test_the_base_has_a_tag_and_the_user_is_not_root():
    (base,) = instructions('FROM')
    image, _, tag = base.partition(':')
    assert (image, tag != 'latest', bool(tag)) == ('python', True, True)
    assert instructions('USER') == ['1000']
    # As pinned in requirements.txt, where the version of Python decides.
    assert tag.startswith('3.12-')


def test_its_extras_are_those_of_the_package():
    (said,) = re.findall(r'EXTRA names: (.*), extras', DOCKERFILE)
    extras = PROJECT['project']['optional-dependencies']
    for name in re.findall(r'\w+', said.replace(' or ', ' ')):
        (requirement,) = extras[name]
        assert requirement.startswith(f'jax[{name}]>=')


def test_it_gets_all_packages_and_no_more_than_it_needs():
    lines = (ROOT / '.dockerignore').read_text().splitlines()
    assert '*' in lines
    let_in = {line.removeprefix('!') for line in lines if line[0] == '!'}
    packages = PROJECT['tool']['setuptools']['packages']['find']['include']
    assert {name.rstrip('*') for name in packages} < let_in
    assert {'train.py', 'requirements.txt'} < let_in
    assert all((ROOT / name).exists() for name in let_in)
    assert not let_in & {'.git', '.venv', 'runs', 'tests'}

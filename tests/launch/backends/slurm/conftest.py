"""The cluster of the tests of this folder."""

import os

import pytest

from tests.launch.backends.slurm import cluster as private


@pytest.fixture(scope='session')
def cluster():
    """The environment in which SLURM's commands reach a cluster of two nodes.

    Where there cannot be one, the tests are not run; with REQUIRE_SLURM=1 in
    the environment, they fail.
    """
    lack = private.lack()
    if lack and os.environ.get('REQUIRE_SLURM') == '1':
        pytest.fail(lack)
    if lack:
        pytest.skip(lack)
    with private.running(nodes=2) as environment:
        yield environment

"""Quick compilation for whole models."""

import pytest

from tests import tiny


@pytest.fixture(autouse=True, scope='module')
def quick_compilation():
    with tiny.quick_compilation():
        yield

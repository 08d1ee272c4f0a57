"""A cache of its own for every test."""

import pytest


@pytest.fixture(autouse=True)
def own_cache(cache):
    """Reading images writes nothing into the user's cache."""

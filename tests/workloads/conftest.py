"""A cache of their own for tests of data."""

import pytest


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of the cache, empty."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / '.cache'))
    return tmp_path / '.cache' / 'moe'

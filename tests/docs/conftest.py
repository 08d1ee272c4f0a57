"""Folders for the pages, and registries as they were."""

import gc
import sys

import pytest

from moe.config import Registry
from tests.docs.blocks import make_folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder like the root of the repository, in which a page's code runs."""
    monkeypatch.chdir(make_folder(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def own_registries(monkeypatch):
    """Whatever a page registers or imports is gone afterwards."""
    for registry in [o for o in gc.get_objects() if isinstance(o, Registry)]:
        monkeypatch.setattr(registry, '_entries', dict(registry._entries))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if not name.startswith(('moe.', 'jax', 'flax')):
            del sys.modules[name]

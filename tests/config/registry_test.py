"""Registries: entries by name, and their options."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import pytest

from moe import config
from moe.config import Registry
from moe.config.registry import option_table


def plain(value):
    return value


def test_options():
    def function(a, b=1, *, c, d=2, e=None):
        return a, b, c, d, e

    assert config.options(function) == {'d': 2, 'e': None}
    assert config.options(plain) == {}


def test_entries_are_found_by_name_and_name_by_entry():
    registry = Registry('thing')

    @registry.register('b')
    def one(*, k: int = 2):
        return k

    @registry.register('a')
    @dataclasses.dataclass(frozen=True)
    class Two:
        width: int = 3

    assert list(registry) == ['a', 'b']
    assert len(registry) == 2
    assert registry['b'] is one
    assert registry.name_of(one) == 'b'
    assert registry.name_of(functools.partial(one, k=1)) == 'b'
    assert registry.name_of(Two(4)) == 'a'
    assert config.options(Two(4)) == {'width': 4}
    assert config.options(functools.partial(one, k=1)) == {'k': 1}
    with pytest.raises(KeyError, match='no registered thing'):
        registry.name_of(plain)


def test_a_name_is_registered_once():
    registry = Registry('thing')
    registry.register('a')(plain)
    registry.register('a')(plain)  # the same module, imported again
    with pytest.raises(ValueError, match="thing 'a' is registered twice"):
        registry.register('a')(option_table)


def test_options_of_a_linen_module():
    class Expert(nn.Module):
        hidden: int
        num_experts: int = 1
        depth: int = 2
        dtype: Any = None
        act: Callable = nn.relu

    table = option_table(Expert, frozenset({'num_experts'}))
    # Neither linen's own fields, nor what plain data cannot give.
    assert list(table) == ['hidden', 'depth']
    assert table['hidden'].required
    assert table['depth'].default == 2

"""What annotations are about."""

from collections.abc import Callable, Mapping
from typing import Annotated

from moe.config import OneOf
from moe.config.hints import (
    alternatives,
    children,
    choice_of,
    dataclass_of,
    is_mapping,
)
from tests.config.overrides_test import ROUTERS, Model, Shared

CHOICE = Annotated[Callable, OneOf(ROUTERS)]


def test_kinds():
    assert alternatives(int | None) == [int]
    assert alternatives(int) == []
    assert choice_of(CHOICE).registry is ROUTERS
    assert choice_of(CHOICE | None).registry is ROUTERS
    assert choice_of(int) is None
    assert dataclass_of(Shared | None) is Shared
    assert dataclass_of(CHOICE) is None
    assert is_mapping(Mapping[str, float])
    assert not is_mapping(Model)


def test_children():
    assert list(children(Model, {})) == ['width', 'router', 'shared', 'losses']
    assert list(children(CHOICE, {'name': 'two'})) == ['k', 'scale']
    assert list(children(CHOICE, 'one')) == ['k', 'renormalize']
    assert children(CHOICE, {'name': 'three'}) is None
    assert children(int, 3) is None

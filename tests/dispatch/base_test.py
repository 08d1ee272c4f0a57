"""The registry of dispatchers, and what they take as experts."""

from moe.dispatch import DISPATCHERS, Experts, grouped, indexed, onehot
from moe.experts import MLP


def test_the_registry_has_the_dispatchers_by_name():
    assert dict(DISPATCHERS) == {
        'grouped': grouped,
        'indexed': indexed,
        'onehot': onehot,
    }


def test_experts_are_whatever_is_called_with_rows():
    assert isinstance(MLP(hidden=2, num_experts=3), Experts)
    assert isinstance(lambda rows, sizes=None: rows, Experts)
    assert not isinstance(3, Experts)

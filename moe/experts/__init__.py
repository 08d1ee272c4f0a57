"""Experts: networks that work on their own share of the rows."""

from moe.experts.cheap import Cheap
from moe.experts.lifted import Lifted
from moe.experts.mlp import MLP, Activation

__all__ = ['MLP', 'Activation', 'Cheap', 'Lifted']

"""Experts: networks that work on their own share of the rows."""

from moe.experts.base import EXPERTS, make_experts
from moe.experts.batch_norm import BatchNorm, Renorm
from moe.experts.cheap import Cheap
from moe.experts.lifted import Lifted
from moe.experts.mlp import MLP, Activation
from moe.experts.network import Network, Networks, regularization
from moe.experts.unlike import Unlike

__all__ = [
    'EXPERTS',
    'MLP',
    'Activation',
    'BatchNorm',
    'Cheap',
    'Lifted',
    'Network',
    'Networks',
    'Renorm',
    'Unlike',
    'make_experts',
    'regularization',
]

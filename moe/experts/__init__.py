"""Experts: networks that work on their own share of the rows."""

from moe.experts.activations import ACTIVATIONS, Activation
from moe.experts.base import EXPERTS, make_experts
from moe.experts.batch_norm import BatchNorm, Renorm
from moe.experts.heterogeneous import HeterogeneousExperts
from moe.experts.lifted import Lifted
from moe.experts.mlp import MLP
from moe.experts.network import Network, Networks, regularization
from moe.experts.zero_computation import ZeroComputationExperts

__all__ = [
    'ACTIVATIONS',
    'EXPERTS',
    'MLP',
    'Activation',
    'BatchNorm',
    'HeterogeneousExperts',
    'Lifted',
    'Network',
    'Networks',
    'Renorm',
    'ZeroComputationExperts',
    'make_experts',
    'regularization',
]

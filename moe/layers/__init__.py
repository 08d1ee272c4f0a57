"""Linen layers that mix experts."""

from moe.layers.account import LOSSES
from moe.layers.config import (
    CHOICES,
    MoEConfig,
    check_model,
    choices,
)
from moe.layers.convex import ConvexCombination
from moe.layers.gate import Gate
from moe.layers.hard_switch import HardSwitch, by_expert, chosen
from moe.layers.hierarchical import HierarchicalMoE
from moe.layers.moe import MoE
from moe.layers.shared import Shared
from moe.layers.soft_moe import SoftMoE
from moe.layers.top2 import hierarchical_top2_moe, top2_moe

__all__ = [
    'CHOICES',
    'LOSSES',
    'ConvexCombination',
    'Gate',
    'HardSwitch',
    'HierarchicalMoE',
    'MoE',
    'MoEConfig',
    'Shared',
    'SoftMoE',
    'by_expert',
    'check_model',
    'choices',
    'chosen',
    'hierarchical_top2_moe',
    'top2_moe',
]

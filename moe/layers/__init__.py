"""Linen layers that mix experts."""

from moe.layers.auxiliary import (
    LOSSES,
    auxiliary,
    losses_with_effect,
    summarize,
)
from moe.layers.checks import experts_per_token
from moe.layers.config import MoEConfig, check_model
from moe.layers.convex import ConvexCombination
from moe.layers.gate import Gate
from moe.layers.hard_switch import HardSwitch, by_expert, chosen
from moe.layers.hierarchical import HierarchicalMoE
from moe.layers.moe import MoE
from moe.layers.shared import Shared
from moe.layers.soft_moe import SoftMoE
from moe.layers.top2 import hierarchical_top2_moe, top2_moe

__all__ = [
    'LOSSES',
    'ConvexCombination',
    'Gate',
    'HardSwitch',
    'HierarchicalMoE',
    'MoE',
    'MoEConfig',
    'Shared',
    'SoftMoE',
    'auxiliary',
    'by_expert',
    'check_model',
    'chosen',
    'experts_per_token',
    'hierarchical_top2_moe',
    'losses_with_effect',
    'summarize',
    'top2_moe',
]

"""Linen layers that mix experts."""

from moe.layers.account import LOSSES
from moe.layers.moe import MoE, MoEConfig, choices

__all__ = ['LOSSES', 'MoE', 'MoEConfig', 'choices']

"""Linen layers that mix experts."""

from moe.layers.moe import MoE, MoEConfig, choices

__all__ = ['MoE', 'MoEConfig', 'choices']

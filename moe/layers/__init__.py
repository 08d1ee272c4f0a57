"""Linen layers that mix experts."""

from moe.layers.moe import MoE, MoEConfig

__all__ = ['MoE', 'MoEConfig']

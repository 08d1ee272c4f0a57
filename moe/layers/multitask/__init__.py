"""Mixtures that learn several tasks at once."""

from moe.layers.multitask.snr import (
    SNR,
    Pruned,
    expected_open,
    hard_concrete,
    pruned,
    shared_routes,
    snr_outputs,
)

__all__ = [
    'SNR',
    'Pruned',
    'expected_open',
    'hard_concrete',
    'pruned',
    'shared_routes',
    'snr_outputs',
]

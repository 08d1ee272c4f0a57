"""Mixtures that learn several tasks at once: y [B, T, H], a row a task."""

from moe.layers.multitask.architectures import (
    cgc,
    mmoe,
    omoe,
    shared_bottom,
    single_task,
)
from moe.layers.multitask.cross_stitch import CrossStitch
from moe.layers.multitask.gates import softmax
from moe.layers.multitask.multi_gate import MultiGate
from moe.layers.multitask.ple import PLE
from moe.layers.multitask.snr import (
    SNR,
    Pruned,
    expected_open,
    hard_concrete,
    pruned,
    shared_routes,
    snr_outputs,
)
from moe.layers.multitask.snr_levels import SNRLevels

__all__ = [
    'PLE',
    'SNR',
    'CrossStitch',
    'MultiGate',
    'Pruned',
    'SNRLevels',
    'cgc',
    'expected_open',
    'hard_concrete',
    'mmoe',
    'omoe',
    'pruned',
    'shared_bottom',
    'shared_routes',
    'single_task',
    'snr_outputs',
    'softmax',
]

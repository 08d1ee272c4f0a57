"""Layers that serve several tasks: y [B, T, H], a row a task."""

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

__all__ = [
    'PLE',
    'CrossStitch',
    'MultiGate',
    'cgc',
    'mmoe',
    'omoe',
    'shared_bottom',
    'single_task',
    'softmax',
]

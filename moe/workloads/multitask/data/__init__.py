"""Data sources of multi-task learning: tables and synthetic rows."""

from moe.workloads.multitask.data.source import SOURCES, Data, Inputs, Source
from moe.workloads.multitask.data.synthetic import SyntheticSource
from moe.workloads.multitask.data.tables import TableSource

__all__ = [
    'SOURCES',
    'Data',
    'Inputs',
    'Source',
    'SyntheticSource',
    'TableSource',
]

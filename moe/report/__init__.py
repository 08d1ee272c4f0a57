"""Report pages of runs and of sweeps."""

from moe.report.page import Sections, summary, write
from moe.report.run import Run

__all__ = ['Run', 'Sections', 'summary', 'write']

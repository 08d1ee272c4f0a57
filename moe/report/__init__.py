"""Reports: a run, or a sweep, as a page that a browser opens."""

from moe.report.page import Sections, summary, write
from moe.report.run import Run

__all__ = ['Run', 'Sections', 'summary', 'write']

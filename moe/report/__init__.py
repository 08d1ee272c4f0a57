"""Reports: what a run was like, as a page a person can open."""

from moe.report.page import summary, write

__all__ = ['summary', 'write']

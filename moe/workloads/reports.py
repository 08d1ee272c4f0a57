"""Report pages with the sections of each run's workload."""

import importlib
import pathlib
from collections.abc import Sequence

from moe import report
from moe.report.page import Sections, no_sections
from moe.report.run import Run

# The module with `SECTIONS` by name of the workload.
_MODULES = {
    'lm': 'moe.workloads.lm.report',
    'multitask': 'moe.workloads.multitask.report',
    'vision': 'moe.workloads.vision.report',
}


def sections_of(run: Run) -> Sections:
    """Returns the sections of the workload of a run."""
    module = _MODULES.get(run.config.get('workload', ''))
    if module is None:
        return no_sections(run)
    return importlib.import_module(module).SECTIONS


def summary(workdir: pathlib.Path) -> str:
    """Returns the results of a run in a few lines of text.

    Args:
      workdir: the run's folder.

    Raises:
      ConfigError: if the folder holds no run.
    """
    return report.summary(workdir, sections_of)


def write(
    workdir: pathlib.Path, others: Sequence[pathlib.Path] = ()
) -> pathlib.Path:
    """Writes the report page of a run, compared with others if given.

    Args:
      workdir: the run's folder; the page is in `report` below it.
      others: folders of runs to compare with.

    Returns:
      The page's path.

    Raises:
      ConfigError: if a folder holds no run.
    """
    return report.write(workdir, others, sections_of)

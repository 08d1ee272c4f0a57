"""The tasks there are, and the config of each."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from moe.config import ConfigError, parse
from moe.training.config import Config
from moe.workloads.lm.workload import LanguageConfig
from moe.workloads.multitask.tabular import SyntheticRun, TableRun
from moe.workloads.vision.workload import VisionConfig

TASKS: dict[str, type[Config]] = {
    'lm': LanguageConfig,
    'synthetic': SyntheticRun,
    'table': TableRun,
    'vision': VisionConfig,
}


def read_config(plain: Mapping[str, Any]) -> Config:
    """Checks a plain config of any task.

    Args:
      plain: with the name of the task in `task`.

    Returns:
      The config.

    Raises:
      ConfigError: for anything that cannot be used.
    """
    name = plain.get('task')
    if name not in TASKS:
        allowed = 'one of ' + ', '.join(repr(task) for task in TASKS)
        raise ConfigError('config.task', name, allowed)
    return parse(TASKS[name], plain)


def read_run(workdir: pathlib.Path) -> Config:
    """The config that a run left in its folder.

    Args:
      workdir: the run's folder.

    Returns:
      The config.

    Raises:
      ConfigError: for a folder without one that can be read.
    """
    try:
        plain = json.loads((workdir / 'config.json').read_text())
    except (OSError, ValueError):
        plain = None
    if not isinstance(plain, Mapping):
        raise ConfigError('workdir', str(workdir), "a run's folder")
    return read_config(plain)

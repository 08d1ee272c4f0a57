"""The `Planning` of each workload."""

from collections.abc import Callable
from typing import Any

from moe.training.config import Config
from moe.workloads.lm.planning import LanguageModelPlanning
from moe.workloads.lm.workload import LanguageConfig
from moe.workloads.planning import Planning
from moe.workloads.vision.planning import VisionPlanning
from moe.workloads.vision.workload import VisionConfig

# All other workloads have `Planning`.
_OF_CONFIG: dict[Any, Callable[[Any], Planning]] = {
    LanguageConfig: LanguageModelPlanning,
    VisionConfig: VisionPlanning,
}


def planning_of(config: Config) -> Planning:
    """Returns the planning of a run.

    Args:
      config: config of the run.

    Raises:
      ConfigError: for data that cannot be used, where the shapes depend on it.
    """
    for kind, make in _OF_CONFIG.items():
        if isinstance(config, kind):
            return make(config)
    return Planning(config)

"""Opening the folder of a trained run of any workload."""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from moe.workloads import registry
from moe.workloads.lm.trained import LanguageModelRun
from moe.workloads.lm.workload import LanguageConfig
from moe.workloads.multitask.trained import TrainedMultiTaskRun
from moe.workloads.multitask.workload import MultiTaskRun
from moe.workloads.trained import TrainedRun
from moe.workloads.vision.trained import VisionRun
from moe.workloads.vision.workload import VisionConfig

_RUNS: dict[Any, Callable[..., TrainedRun]] = {
    LanguageConfig: LanguageModelRun,
    MultiTaskRun: TrainedMultiTaskRun,
    VisionConfig: VisionRun,
}


def load(
    workdir: str | os.PathLike,
    step: int | None = None,
    plugins: Sequence[str] = (),
) -> TrainedRun:
    """Opens the folder of a trained run; see `moe.load`."""
    path = pathlib.Path(workdir)
    config = registry.read_run(path, plugins)
    of = next(run for kind, run in _RUNS.items() if isinstance(config, kind))
    return of(config, path, step)

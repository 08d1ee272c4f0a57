"""Training: the pure step, the tasks, and the run around them."""

from moe.training.config import Config
from moe.training.language import LanguageConfig, sample
from moe.training.loop import Diverged, run
from moe.training.step import TrainState, init_state, make_train_step
from moe.training.tabular import TableRun
from moe.training.tasks import read_config, read_run
from moe.training.vision import VisionConfig

__all__ = [
    'Config',
    'Diverged',
    'LanguageConfig',
    'TableRun',
    'TrainState',
    'VisionConfig',
    'init_state',
    'make_train_step',
    'read_config',
    'read_run',
    'run',
    'sample',
]

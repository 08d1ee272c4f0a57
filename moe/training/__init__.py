"""Training: the pure step, and the run around it."""

from moe.training.config import Config
from moe.training.loop import Diverged, run, sample
from moe.training.step import TrainState, init_state, make_train_step

__all__ = [
    'Config',
    'Diverged',
    'TrainState',
    'init_state',
    'make_train_step',
    'run',
    'sample',
]

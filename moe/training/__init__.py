"""Training: the pure step and the loop around it."""

from moe.training.config import Config
from moe.training.loop import run
from moe.training.step import TrainState, init_state, make_train_step
from moe.training.trainer import Diverged

__all__ = [
    'Config',
    'Diverged',
    'TrainState',
    'init_state',
    'make_train_step',
    'run',
]

"""A whole run, as a config describes it."""

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any

from moe.config import (
    ConfigError,
    NaturalFloat,
    NaturalInt,
    OneOf,
    PositiveInt,
)
from moe.layers import LOSSES
from moe.parallel import MeshConfig
from moe.parallel.mesh import BATCH_AXES, RULES
from moe.training.optimizer import OPTIMIZERS, Optimizer
from moe.training.workload import Task


@dataclasses.dataclass(frozen=True)
class Config(abc.ABC):
    """A run: objective, optimizer, mesh, and when to do what.

    Each task adds its model, its data and what else it needs.
    """

    task: str
    seed: NaturalInt
    steps: PositiveInt
    model: Any
    losses: Mapping[str, NaturalFloat]
    data: Any
    optimizer: Annotated[Optimizer, OneOf(OPTIMIZERS)]
    mesh: MeshConfig
    log_every: PositiveInt
    eval_every: PositiveInt
    checkpoint_every: PositiveInt
    keep_checkpoints: PositiveInt

    @abc.abstractmethod
    def make_task(self) -> Task:
        """The task that this describes."""

    @property
    def expert_axes(self) -> tuple[str, ...]:
        """The mesh axes that experts are split over."""
        return RULES['expert']

    @property
    def known_losses(self) -> tuple[str, ...]:
        """The auxiliary losses that there are."""
        return LOSSES

    def check_batch(self, sizes: Mapping[str, int]) -> None:
        """Refuses a mesh whose devices cannot share a microbatch equally.

        Args:
          sizes: of the mesh axes, none left open.

        Raises:
          ConfigError: then.
        """
        ways = math.prod(sizes[axis] for axis in BATCH_AXES)
        size = self.data.batch_size
        if size % (ways * self.optimizer.accumulation):
            allowed = f'a multiple of {ways} devices x accumulation'
            raise ConfigError('config.data.batch_size', size, allowed)

    def check_platform(self, platform: str) -> None:
        """Refuses kernels that a platform does not have.

        Args:
          platform: of the devices, such as 'tpu'.

        Raises:
          ConfigError: then.
        """
        del platform  # all have what most tasks need

    def __post_init__(self):
        for name in self.losses:
            if name not in self.known_losses:
                known = ', '.join(self.known_losses)
                raise ConfigError(
                    f'losses.{name}',
                    self.losses[name],
                    f'absent: no such loss (there are {known})',
                )
        try:
            self.optimizer.learning_rates(self.steps)
        except ConfigError as error:
            raise error.inside('optimizer') from None
        accumulation = self.optimizer.accumulation
        if self.data.batch_size % accumulation:
            raise ConfigError(
                'optimizer.accumulation',
                accumulation,
                f'a divisor of data.batch_size ({self.data.batch_size})',
            )

"""The config of a run: what all workloads have in common."""

import abc
import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from moe.config import (
    ConfigError,
    Counted,
    NaturalFloat,
    NaturalInt,
    OneOf,
    PositiveInt,
    PositiveSteps,
    Seed,
    options,
)
from moe.layers import LOSSES
from moe.parallel import MeshConfig
from moe.parallel.mesh import BATCH_AXES, RULES
from moe.parameters import PARTS
from moe.sinks import WandBConfig
from moe.training.average import AverageConfig
from moe.training.divergence import DivergenceConfig
from moe.training.eval_metrics import METRICS
from moe.training.init_from import InitFrom
from moe.training.optimizer import OPTIMIZERS, AdamW, Optimizer
from moe.training.watch import BestConfig
from moe.training.workload import Workload


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(abc.ABC):
    """The config of a run; each workload's subclass adds its own fields.

    Attributes:
      workload: the kind of model and data: lm, vision or multitask.
      model: the model's section.
      data: the data's section.
      plugins: modules, or paths of Python files, that are imported before
        the config is read; see the how-to page on plugins.
      seed: seed of the parameters, the order of the data and routing noise.
      deterministic: whether two runs are the same to the bit on GPUs too, which
        is slower; on CPUs and TPUs they are.
      steps: number of optimizer steps; a text such as '2e9 tokens' is the
        number of steps that read so many, rounded up.
      losses: coefficient of each auxiliary loss in the objective.
      metrics: evaluation metrics beside the workload's own.
      init_from: another run whose parameters this one starts with, DIR or
        DIR:STEP, or a section; None for none.
      optimizer: the optimizer's section.
      divergence: what is done when many updates in a row are left out, as
        the loss or the gradient is not finite.
      best: what is done by the values of an evaluation metric: the best
        checkpoints are kept, or the run ends early.
      average: a moving average of the parameters, which is evaluated, sampled
        and kept in their place; None for none.
      mesh: number of devices along each axis of the mesh.
      log_every: steps between lines of metrics.
      eval_every: steps between passes over the validation set.
      checkpoint_every: steps between checkpoints.
      keep_checkpoints: how many of the newest checkpoints are kept.
      profile: (start, stop) traces the steps after `start` up to `stop` with
        JAX's profiler; () for none.
      wandb: a run of Weights & Biases that has the metrics too; None for none.
    """

    unit: ClassVar[str] = 'examples'

    workload: str
    model: Any
    data: Any
    plugins: tuple[str, ...] = ()
    seed: Seed = 0
    deterministic: bool = False
    steps: PositiveSteps = 600
    losses: Mapping[str, NaturalFloat] = dataclasses.field(default_factory=dict)
    metrics: tuple[Annotated[Any, OneOf(METRICS)], ...] = ()
    optimizer: Annotated[Optimizer, OneOf(OPTIMIZERS)] = dataclasses.field(
        default_factory=AdamW
    )
    init_from: InitFrom | None = None
    divergence: DivergenceConfig = dataclasses.field(
        default_factory=DivergenceConfig
    )
    best: BestConfig = dataclasses.field(default_factory=BestConfig)
    average: AverageConfig | None = None
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    log_every: PositiveInt = 10
    eval_every: PositiveInt = 300
    checkpoint_every: PositiveInt = 300
    keep_checkpoints: PositiveInt = 2
    profile: tuple[NaturalInt, ...] = ()
    wandb: WandBConfig | None = None

    @abc.abstractmethod
    def make_workload(self) -> Workload:
        """Returns the workload of this config."""

    def prepared_as(self, workdir: pathlib.Path) -> 'Config':
        """Returns the config with other data prepared as a run's own were.

        Args:
          workdir: the run's folder.
        """
        del workdir
        return self

    @property
    def units_per_step(self) -> int:
        """Returns how many units, tokens or examples, a step reads."""
        return self.data.batch_size

    @property
    def expert_axes(self) -> tuple[str, ...]:
        """Returns the mesh axes that experts are split over."""
        return RULES['expert']

    @property
    def coefficients(self) -> Mapping[str, float]:
        """Returns the coefficient of each auxiliary loss in the objective."""
        return self.losses

    @property
    def known_losses(self) -> tuple[str, ...]:
        """Returns the names that `losses` may have."""
        return tuple(LOSSES)

    def notes(self) -> list[str]:
        """Returns a line about every setting that has no effect in this run.

        They are printed once, when the run starts and the mesh is known.
        """
        return []

    def check_batch(self, sizes: Mapping[str, int]) -> None:
        """Refuses a mesh whose devices cannot share a microbatch equally.

        Args:
          sizes: sizes of the mesh axes, none of them -1.

        Raises:
          ConfigError: if the batch is no multiple of devices x accumulation.
        """
        num_shards = math.prod(sizes[axis] for axis in BATCH_AXES)
        size = self.data.batch_size
        if size % (num_shards * self.optimizer.accumulation):
            allowed = f'a multiple of {num_shards} devices x accumulation'
            raise ConfigError('config.data.batch_size', size, allowed)

    def check_platform(self, platform: str) -> None:
        """Refuses settings that a platform does not support.

        Args:
          platform: platform of the devices, such as 'tpu'.

        Raises:
          ConfigError: for a kernel of another platform.
        """
        del platform

    def _count_steps(self):
        """Turns numbers of tokens into numbers of steps."""
        object.__setattr__(self, 'steps', self._in_steps('steps', self.steps))
        schedule = self.optimizer.schedule
        lengths = {
            name: self._in_steps(f'optimizer.schedule.{name}', value)
            for name, value in options(schedule).items()
            if isinstance(value, Counted)
        }
        if lengths:
            schedule = functools.partial(schedule, **lengths)
            optimizer = dataclasses.replace(self.optimizer, schedule=schedule)
            object.__setattr__(self, 'optimizer', optimizer)

    def _in_steps(self, field: str, value: int) -> int:
        if not isinstance(value, Counted):
            return value
        if value.unit != self.unit:
            allowed = f"steps, or a number of {self.unit} ('2e9 {self.unit}')"
            raise ConfigError(field, value, allowed)
        return -(-int(value) // self.units_per_step)

    def __post_init__(self):
        self._count_steps()
        for name in self.losses:
            if name not in self.known_losses:
                known = ', '.join(self.known_losses)
                raise ConfigError(
                    f'losses.{name}',
                    self.losses[name],
                    f'absent: no such loss (there are {known})',
                )
        if self.profile and not (
            len(self.profile) == 2 and self.profile[0] < self.profile[1]
        ):
            raise ConfigError(
                'profile', self.profile, '() or (start, stop), start < stop'
            )
        names = [METRICS.name_of(metric) for metric in self.metrics]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError('metrics', names, 'each of them once')
        try:
            self.optimizer.learning_rates(self.steps)
        except ConfigError as error:
            raise error.inside('optimizer') from None
        for name, factor in self.optimizer.multipliers.items():
            if name not in PARTS:
                allowed = f'absent: a part is one of {", ".join(PARTS)}'
                raise ConfigError(
                    f'optimizer.multipliers.{name}', factor, allowed
                )
        accumulation = self.optimizer.accumulation
        if self.data.batch_size % accumulation:
            raise ConfigError(
                'optimizer.accumulation',
                accumulation,
                f'a divisor of data.batch_size ({self.data.batch_size})',
            )

"""A whole run, as a config describes it."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from moe.config import (
    ConfigError,
    Fraction,
    NaturalFloat,
    NaturalInt,
    PositiveFloat,
    PositiveInt,
)
from moe.layers import LOSSES
from moe.models.transformer import TransformerConfig
from moe.parallel import MeshConfig
from moe.training.task import Task


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer, its schedule, and what is added up before a step."""

    name: Literal['adamw', 'adafactor', 'lion', 'muon']
    learning_rate: PositiveFloat
    schedule: Literal['constant', 'linear', 'cosine']
    warmup_steps: NaturalInt
    final_fraction: Fraction
    weight_decay: NaturalFloat
    clip_norm: PositiveFloat | None
    b1: Fraction
    b2: Fraction
    accumulation: PositiveInt


@dataclasses.dataclass(frozen=True)
class Config(abc.ABC):
    """A run: objective, optimizer, mesh, and when to do what.

    Each task adds its model, its data and what else it needs.
    """

    task: str
    seed: NaturalInt
    steps: PositiveInt
    model: TransformerConfig
    losses: Mapping[str, NaturalFloat]
    data: Any
    optimizer: OptimizerConfig
    mesh: MeshConfig
    log_every: PositiveInt
    eval_every: PositiveInt
    checkpoint_every: PositiveInt
    keep_checkpoints: PositiveInt

    @abc.abstractmethod
    def make_task(self) -> Task:
        """The task that this describes."""

    @property
    @abc.abstractmethod
    def tokens_per_example(self) -> int:
        """Tokens that the mixtures see of each example of a batch."""

    def __post_init__(self):
        model, data, mesh = self.model, self.data, self.mesh
        for name in self.losses:
            if name not in LOSSES:
                known = ', '.join(LOSSES)
                raise ConfigError(
                    f'losses.{name}',
                    self.losses[name],
                    f'absent: no such loss (there are {known})',
                )
        if self.optimizer.warmup_steps >= self.steps:
            raise ConfigError(
                'optimizer.warmup_steps',
                self.optimizer.warmup_steps,
                f'less than steps ({self.steps})',
            )
        accumulation = self.optimizer.accumulation
        if data.batch_size % accumulation:
            raise ConfigError(
                'optimizer.accumulation',
                accumulation,
                f'a divisor of data.batch_size ({data.batch_size})',
            )
        if model.moe.num_experts % mesh.expert:
            raise ConfigError(
                'mesh.expert',
                mesh.expert,
                f'a divisor of num_experts ({model.moe.num_experts})',
            )
        if model.num_kv_heads % mesh.tensor:
            raise ConfigError(
                'mesh.tensor',
                mesh.tensor,
                f'a divisor of num_kv_heads ({model.num_kv_heads})',
            )
        groups = model.moe.num_groups
        tokens = data.batch_size // accumulation * self.tokens_per_example
        if groups and tokens % groups:
            raise ConfigError(
                'model.moe.num_groups',
                groups,
                f'a divisor of the {tokens} tokens of a (micro)batch',
            )

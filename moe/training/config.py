"""A whole run, as a config describes it."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from moe.config import (
    ConfigError,
    Fraction,
    NaturalFloat,
    NaturalInt,
    PositiveFloat,
    PositiveInt,
)
from moe.data import TextConfig
from moe.data.text import VOCAB_SIZE
from moe.layers import LOSSES
from moe.models import LMConfig
from moe.parallel import MeshConfig


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
class Config:
    """A run: model, objective, data, optimizer, mesh, and when to do what."""

    seed: NaturalInt
    steps: PositiveInt
    model: LMConfig
    losses: Mapping[str, NaturalFloat]
    data: TextConfig
    optimizer: OptimizerConfig
    mesh: MeshConfig
    log_every: PositiveInt
    eval_every: PositiveInt
    checkpoint_every: PositiveInt
    keep_checkpoints: PositiveInt
    sample_prompt: str
    sample_length: NaturalInt

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
        if model.vocab_size < VOCAB_SIZE:
            raise ConfigError(
                'model.vocab_size', model.vocab_size, f'at least {VOCAB_SIZE}'
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
        micro = data.batch_size // accumulation
        if groups and (micro * data.seq_len) % groups:
            raise ConfigError(
                'model.moe.num_groups',
                groups,
                f'a divisor of the {micro * data.seq_len} tokens of a '
                '(micro)batch',
            )

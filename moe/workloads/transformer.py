"""The configs and workloads of transformers: what they have in common."""

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp

from moe.config import ConfigError, options
from moe.config.registry import entry_of
from moe.layers import LOSSES, losses_with_effect
from moe.losses import AUXILIARY_LOSSES
from moe.models.transformer import TransformerConfig
from moe.ops.attention import ATTENTION_KERNELS, splash, traits_of
from moe.parallel import COMMUNICATION, expert_axes_of, none
from moe.parameters import parts
from moe.routing import ROUTERS
from moe.training.config import Config
from moe.training.workload import Workload
from moe.workloads.lm.model import (
    active_parameters,
    active_size,
    attention_flops,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerRun(Config):
    """The config of a run of a transformer with mixtures."""

    unit: ClassVar[str] = 'tokens'

    # Auxiliary losses of the model's outputs, beside those of its mixtures.
    output_losses: ClassVar[tuple[str, ...]] = ()

    model: TransformerConfig

    @property
    @abc.abstractmethod
    def tokens_per_example(self) -> int:
        """Returns the number of tokens of an example that mixtures see."""

    @property
    def units_per_step(self) -> int:
        """Returns how many tokens a step reads."""
        return self.data.batch_size * self.tokens_per_example

    def check_platform(self, platform: str) -> None:
        """Refuses an attention kernel that the platform does not have."""
        owner = traits_of(self.model.attention).platform or platform
        if owner != platform:
            name = ATTENTION_KERNELS.name_of(self.model.attention)
            allowed = f"'xla' on a {platform}: this kernel is for a {owner}"
            raise ConfigError('config.model.attention.name', name, allowed)

    @property
    def known_losses(self) -> tuple[str, ...]:
        """Returns the built-in losses, and those that are registered."""
        mixtures = [*LOSSES, *self.model.moe.losses, *AUXILIARY_LOSSES]
        names = [*mixtures, *self.output_losses]
        return tuple(dict.fromkeys(names))

    def _name_losses(self):
        """Adds every loss with a coefficient to the layers' losses."""
        moe = self.model.moe
        more = {
            name: AUXILIARY_LOSSES[name]
            for name in self.losses
            if name not in {*LOSSES, *moe.losses, *self.output_losses}
        }
        if more:
            moe = dataclasses.replace(moe, losses={**moe.losses, **more})
            model = dataclasses.replace(self.model, moe=moe)
            object.__setattr__(self, 'model', model)

    def __post_init__(self):
        super().__post_init__()
        self._name_losses()
        model, data, mesh = self.model, self.data, self.mesh
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
        length = self.tokens_per_example
        if entry_of(model.attention) is splash and length % 128:
            allowed = f"'xla': {length} positions are no multiple of 128"
            raise ConfigError('model.attention.name', 'splash', allowed)
        groups = model.moe.num_groups
        tokens = (
            data.batch_size
            // self.optimizer.accumulation
            * self.tokens_per_example
        )
        if groups and tokens % groups:
            raise ConfigError(
                'model.moe.num_groups',
                groups,
                f'a divisor of the {tokens} tokens of a (micro)batch',
            )
        sizes = {axis: getattr(mesh, axis) for axis in self.expert_axes}
        local = entry_of(model.moe.communication) is none
        if not local and math.prod(sizes.values()) > 1:
            self._check_communication(sizes)

    @property
    def expert_axes(self) -> tuple[str, ...]:
        """Returns the mesh axes that experts are split over, one a level."""
        return expert_axes_of(self.model.moe.communication)

    def notes(self) -> list[str]:
        """Says which settings of the mixtures have no effect."""
        if not self.model.moe_layers:
            return []
        moe, found = self.model.moe, super().notes()
        sizes = [getattr(self.mesh, axis) for axis in self.expert_axes]
        if entry_of(moe.communication) is not none and math.prod(sizes) == 1:
            name = COMMUNICATION.name_of(moe.communication)
            found.append(
                f'config.model.moe.communication = {name} has no effect: all '
                'experts are on one device (config.mesh.expert = 1)'
            )
        weighted = [
            name
            for name, weight in self.losses.items()
            if weight and name not in self.output_losses
        ]
        known = {**LOSSES, **moe.losses}
        losses = {name: known[name] for name in weighted}
        effective = set[str]().union(
            *(
                losses_with_effect(router, moe.num_experts, losses)
                for router in moe.routers.values()
            )
        )
        for name in weighted:
            if name not in effective:
                routers = map(ROUTERS.name_of, moe.routers.values())
                found.append(
                    f'config.losses.{name} = {self.losses[name]} has no effect '
                    f'on the router {" and ".join(routers)}'
                )
        return found + self._notes_on_sparsity()

    def _notes_on_sparsity(self) -> list[str]:
        """Says what keeps a router with a penalty from its sparsity."""
        moe, found = self.model.moe, []
        for level, router in moe.routers.items():
            given, name = options(router), f'config.model.moe.{level}'
            if 'penalty' not in given:
                continue
            if not self.losses.get('l1'):
                found.append(
                    f'config.losses.l1 = 0 leaves the sparsity of {name} as it '
                    'is (1 holds it)'
                )
            sparsity = getattr(given['penalty'], 'sparsity', 1.0)
            groups = moe.num_expert_groups
            experts = moe.num_experts // groups if level == 'router' else groups
            if given['k'] < (wanted := experts * (1 - sparsity)):
                found.append(
                    f'{name}.k = {given["k"]} cuts gates off: penalty.sparsity '
                    f'= {sparsity} leaves {wanted:g} of {experts} experts'
                )
        return found

    def _check_communication(self, sizes: Mapping[str, int]):
        """Refuses experts and groups that do not divide over the devices."""
        moe, mesh = self.model.moe, self.mesh
        experts = moe.num_experts // moe.num_expert_groups
        for axis, size in sizes.items():
            if experts % size:
                allowed = f'a divisor of the {experts} experts that it splits'
                raise ConfigError(f'mesh.{axis}', size, allowed)
            experts //= size
        num_shards = mesh.replica * max(mesh.data, 1) * mesh.fsdp * mesh.expert
        if moe.num_groups and moe.num_groups % num_shards:
            raise ConfigError(
                'model.moe.num_groups',
                moe.num_groups,
                f'a multiple of the {num_shards} devices that groups are over, '
                'each with whole groups',
            )


class TransformerWorkload(Workload):
    """A workload whose model is a stack of transformer blocks.

    Args:
      config: config of the run.

    Attributes:
      seen: mean share of the positions that a query attends to.
    """

    seen = 1.0

    def __init__(self, config: TransformerRun):
        self._config = config
        self.units_per_step = config.units_per_step

    def layer_metrics(self, stats):
        """Names the statistics of each mixture layer `moe/layer_i/...`."""
        return {
            f'moe/layer_{layer}/{name}': value.tolist()
            for name, values in stats.items()
            for layer, value in zip(
                self._config.model.training_mixtures, values, strict=False
            )
        }

    def example_bytes(self):
        """Returns those of the inputs of all blocks, beside the example."""
        model, length = self._config.model, self._config.tokens_per_example
        inputs = model.trained_layers * length * model.d_model
        size = jnp.dtype(model.dtype).itemsize
        return {**super().example_bytes(), 'activations': inputs * size}

    def count_parameters(self):
        """Returns the number of parameters, and of those active for a token."""
        return active_parameters(self._config.model, self.parameters)

    def flops_per_unit(self):
        """Returns 6 FLOPs for each active parameter, and those of attention.

        See `attention_flops`. Each depth of multi-token prediction multiplies
        with the head again. Source: PaLM, arXiv 2204.02311, appendix B.
        """
        model, found = self._config.model, dict[str, float]()
        where = jax.tree.leaves(parts(self.parameters))
        for part, p in zip(
            where, jax.tree.leaves(self.parameters), strict=True
        ):
            if model.moe_layers or 'expert' not in p.axes:
                active = active_size(model, p)
                found[part] = found.get(part, 0.0) + 6.0 * active
        found['attention'] = found.get('attention', 0.0) + attention_flops(
            model, self._config.tokens_per_example, self.seen
        )
        # A table that is multiplied is the head too.
        head = found.get('head', 0.0) + found.pop('embedding', 0.0)
        found['head'] = head * model.trained_outputs
        return found

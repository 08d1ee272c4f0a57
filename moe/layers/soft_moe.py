"""The soft mixture layer.

B leading rows, S tokens a group, E experts, P slots an expert, D width.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from flax.core import FrozenDict
from jaxtyping import Array, Bool, Float

from moe.capacity import capacity
from moe.config import ConfigError, options
from moe.layers.auxiliary import auxiliary
from moe.layers.gate import in_groups
from moe.ops.dropout import drops, make_seeds
from moe.parameters import declare_all, parameter
from moe.routing.soft import slot_logits, soft
from moe.types import Aux, AuxiliaryLoss, Context, RoutingSummary


class SoftMoE(nn.Module):
    """Soft MoE: slots are averages of tokens, outputs averages of slots.

    Expert e computes on P slots a group, each a convex combination of all
    tokens (`moe.routing.soft`). It looks ahead: not for causal models.
    Source: arXiv 2308.00951.

    Attributes:
      experts: a module with `num_experts`, called with buffers [E, N, D].
      router: `soft`, or a partial of it; its option `capacity_factor` is the
        number of slots of all experts over that of tokens,
        `P = ceil(S * factor / E)`.
      num_groups: G; None makes every leading row a group.
      losses: further auxiliary losses, see `MoE`.
    """

    experts: nn.Module
    router: Any = soft
    num_groups: int | None = None
    losses: Mapping[str, AuxiliaryLoss] = FrozenDict()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, '*B S D'],
        *,
        mask: Bool[Array, '*B S'] | None = None,
        token_ids=None,
        routes=None,
        train: bool = False,
        record: bool = False,
    ) -> tuple[Float[Array, '*B S F'], Aux]:
        """Averages tokens into slots, runs the experts, averages their outputs.

        Args:
          x: tokens, float.
          mask: True for valid tokens; None if all are. Padding is in no slot
            and gets output 0.
          token_ids: not read; all mixture layers have it.
          routes: None; a soft mixture has no choice to replay.
          train: whether this is training, for the experts' dropout.
          record: not read: there are no assignments to record.

        Returns:
          The outputs, and the Aux with an expert's share of a token (the sum
          of `combine` over its slots) as gate, probability and load.

        Raises:
          ConfigError: for routes.
          ValueError: if the tokens do not divide into the groups.
        """
        if routes is not None:
            allowed = 'None for a soft mixture, which has no choice to replay'
            raise ConfigError('routes', jnp.shape(routes), allowed)
        tokens, valid = in_groups(x, mask, self.num_groups)
        num_groups, size = valid.shape
        num_experts = self.experts.num_experts  # type: ignore[attr-defined]
        factor = options(self.router)['capacity_factor']
        slots = capacity(size, num_experts, 1, factor)
        normal = nn.initializers.lecun_normal()
        ones = nn.initializers.ones_init()
        kernel = (x.shape[-1], num_experts * slots)
        logits = slot_logits(
            tokens.astype(jnp.float32),
            parameter(self, 'router', normal, kernel, decay=False),
            parameter(self, 'scale', ones, (), decay=False),
        )
        position = jnp.arange(valid.size, dtype=jnp.int32).reshape(valid.shape)
        routing = self.router(logits, Context(valid, position, train=train))
        rows = jnp.einsum(
            'gsn,gsd->gnd', routing.dispatch.astype(x.dtype), tokens
        )
        rows = rearrange(rows, 'g (e p) d -> e (g p) d', e=num_experts)
        seeds = []
        if train and drops(self.experts):
            # Of slots: a soft mixture's experts see no token.
            at = jnp.arange(num_groups * num_experts * slots, dtype=jnp.int32)
            at = at.reshape(num_groups, num_experts, slots)
            found = make_seeds(self.make_rng('router'), at)
            seeds = [None, rearrange(found, 'g e p -> e (g p)')]
        out = rearrange(
            self.experts(rows, *seeds), 'e (g p) d -> g (e p) d', g=num_groups
        )
        declare_all(self.experts, first_axis='expert')
        y = jnp.einsum('gsn,gnd->gsd', routing.combine.astype(out.dtype), out)
        share = rearrange(routing.combine, 'g s (e p) -> g s e p', p=slots)
        share = jnp.sum(share, axis=-1)
        # Padding has the uniform distribution, which no loss counts.
        probs = jnp.where(valid[..., None], share, 1.0 / num_experts)
        summary = RoutingSummary(
            probs=probs,
            logits=routing.logits,
            mask=valid,
            gates=share,
            assignments=share,
            balance_assignments=share,
            unbiased_assignments=share,
            penalized_gates=share,
            selection_probability=share,
            num_sequences=valid.size // x.shape[-2],
            state={},
        )
        aux = auxiliary(summary, jnp.sum(share), extra_losses=self.losses)
        return y.astype(x.dtype).reshape(*x.shape[:-1], -1), aux

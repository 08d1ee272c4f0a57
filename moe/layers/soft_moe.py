"""The soft mixture layer.

B leading rows, S tokens a group, E experts, P slots an expert, D width.
"""

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from moe.capacity import capacity
from moe.layers.account import account_gates
from moe.layers.gate import in_groups
from moe.routing.soft import soft
from moe.types import Aux


class SoftMoE(nn.Module):
    """Every slot is an average of the tokens, every token of the slots.

    Expert e computes on P slots a group, each a convex combination of all
    tokens (`moe.routing.soft`). It looks ahead: not for causal models.
    Source: arXiv 2308.00951.

    Attributes:
      experts: a module with `num_experts`, called with buffers [E, N, D].
      capacity_factor: slots of all experts over tokens, `P = ceil(S * factor /
        E)`; at 1 the experts cost as much as a dense layer.
      num_groups: G; None makes every leading row a group.
    """

    experts: nn.Module
    capacity_factor: float = 1.0
    num_groups: int | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, '*B S D'],
        *,
        mask: Bool[Array, '*B S'] | None = None,
        token_ids=None,
        train: bool = False,
        record: bool = False,
    ) -> tuple[Float[Array, '*B S F'], Aux]:
        """Averages, runs the experts, averages.

        Args:
          x: tokens, float.
          mask: True for live tokens; None if all are. Padding is in no slot
            and gets output 0.
          token_ids: not read; every mixture layer is called alike.
          train: not read.
          record: not read: there are no assignments to record.

        Returns:
          The outputs, and the Aux with an expert's share of a token (the sum
          of `combine` over its slots) as gate, probability and load.

        Raises:
          ValueError: if the tokens do not divide into the groups.
        """
        tokens, live = in_groups(x, mask, self.num_groups)
        num_groups, size = live.shape
        num_experts = self.experts.num_experts  # type: ignore[attr-defined]
        slots = capacity(size, num_experts, 1, self.capacity_factor)
        normal = nn.initializers.lecun_normal()
        ones = nn.initializers.ones_init()
        kernel = (x.shape[-1], num_experts * slots)
        routing = soft(
            tokens.astype(jnp.float32),
            self.param('router', normal, kernel),
            self.param('scale', ones, ()),
            live,
        )
        rows = jnp.einsum(
            'gsn,gsd->gnd', routing.dispatch.astype(x.dtype), tokens
        )
        rows = rearrange(rows, 'g (e p) d -> e (g p) d', e=num_experts)
        out = rearrange(
            self.experts(rows), 'e (g p) d -> g (e p) d', g=num_groups
        )
        y = jnp.einsum('gsn,gnd->gsd', routing.combine.astype(out.dtype), out)
        share = rearrange(routing.combine, 'g s (e p) -> g s e p', p=slots)
        share = jnp.sum(share, axis=-1)
        # Padding has the uniform distribution, which no loss counts.
        probs = jnp.where(live[..., None], share, 1.0 / num_experts)
        aux = account_gates(
            probs,
            routing.logits,
            share,
            share,
            jnp.sum(share),
            live,
            chance=share,
            num_sequences=live.size // x.shape[-2],
        )
        return y.astype(x.dtype).reshape(*x.shape[:-1], -1), aux

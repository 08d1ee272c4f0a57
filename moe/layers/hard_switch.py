"""Hard switching between heterogeneous modules.

B examples, E experts, D and F widths.
"""

from typing import Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from moe.config import ConfigError
from moe.dispatch import grouped
from moe.experts import HeterogeneousExperts
from moe.layers.auxiliary import auxiliary, summarize
from moe.losses import count_tokens
from moe.parameters import declare_all
from moe.routing import top_k
from moe.totals import Derived
from moe.types import Aux, Context, Routing

GateGradient = Literal['none', 'straight_through', 'probability']


class HardSwitch(nn.Module):
    """Runs exactly one of E different modules on each example.

    `y = expert_c(x)`, `c = argmax(logits)`, ties to the lowest index. A gate
    may give one logit fewer than there are experts; the first expert's logit
    is then 0. Of two experts the second runs where `sigmoid(logit) > 0.5`.

    Attributes:
      experts: E modules without randomness or state, see
        `HeterogeneousExperts`.
      gate: any module from x to logits [B, E] or [B, E - 1]; None is a dense
        layer, of one logit for two experts, else of E.
      gradient: the gradient of y by the gate. With p the softmax of the logits,
        'none' has none; 'probability' returns `p_c * expert_c(x)`, and
        'straight_through' gives the gate the gradient of that, while y
        stays `expert_c(x)`.
      block_size: number of rows that an expert runs at a time, see
        `HeterogeneousExperts`.
    """

    experts: tuple[nn.Module, ...]
    gate: nn.Module | None = None
    gradient: GateGradient = 'none'
    block_size: int = 64

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'B D'],
        *,
        mask: Bool[Array, 'B'] | None = None,
        train: bool = False,
        record: bool = False,
    ) -> tuple[Float[Array, 'B F'], Aux]:
        """Chooses an expert for each example, and runs it.

        Args:
          x: examples, float.
          mask: True for valid ones; None if all are. No expert runs on
            padding, which gets output 0.
          train: not read; all mixture layers have it.
          record: whether to return the Routing in the Aux, for the losses of
            each expert, see `chosen` and `by_expert`.

        Returns:
          The outputs, and the Aux of `auxiliary` with one more statistic,
          'nan_gates': valid examples with a logit that is not a number. They
          go to the first expert.

        Raises:
          ConfigError: if x is not of rank 2, there is no expert, or `gradient`
            is none of the three.
          ValueError: if the gate's logits do not fit the experts.
        """
        if x.ndim != 2:
            allowed = '[B, D], an example a row; reshape tokens to rows first'
            raise ConfigError('HardSwitch: shape of x', x.shape, allowed)
        num_experts = len(self.experts)
        if not num_experts:
            raise ConfigError('HardSwitch: experts', 0, 'at least one')
        if self.gradient not in (known := get_args(GateGradient)):
            allowed = f'one of {", ".join(known)}'
            raise ConfigError('HardSwitch: gradient', self.gradient, allowed)
        valid = jnp.ones(len(x), bool) if mask is None else mask
        x = jnp.where(valid[:, None], x, 0)
        gate = self.gate or nn.Dense(
            1 if num_experts == 2 else num_experts,
            precision=lax.Precision.HIGHEST,
            name='gate',
        )
        logits = gate(x.astype(jnp.float32)).astype(jnp.float32)
        if logits.shape[-1] == num_experts - 1:
            logits = jnp.pad(logits, [(0, 0), (1, 0)])
        if logits.shape != (len(x), num_experts):
            raise ValueError(
                f'HardSwitch: logits {logits.shape} of {len(x)} examples and '
                f'{num_experts} experts'
            )
        lost = jnp.any(jnp.isnan(logits), axis=-1)
        # Equal logits tie, so the first expert runs. Infinite ones compare, but
        # have no softmax.
        logits = jnp.where(lost[:, None], 0.0, jnp.nan_to_num(logits))
        order = jnp.arange(len(x), dtype=jnp.int32)
        routing = top_k(logits[None], Context(valid[None], order[None]), k=1)
        routing = routing.replace(weight=_weight(routing.weight, self.gradient))
        run = HeterogeneousExperts(self.experts, self.block_size)
        nn.share_scope(self, run)  # its parameters are this layer's
        y, within = grouped(x[None], routing, run, None)
        declare_all(gate, decay=False)
        for expert in self.experts:
            declare_all(expert, first_axis='expert')
        summary = summarize(routing)
        bad = jnp.sum(lost & valid, dtype=jnp.float32)
        aux = auxiliary(
            summary,
            within,
            extra_stats={'nan_gates': Derived(bad, count_tokens(valid), _sum)},
            record=record,
        )
        return y[0], aux


def _sum(x):
    return x


def _weight(p, gradient: GateGradient):
    """Returns the factor of a chosen expert's output, of probability p."""
    one = jnp.ones_like(p)
    return {
        'none': one,
        'straight_through': one + (p - lax.stop_gradient(p)),
        'probability': p,
    }[gradient]


def chosen(routing: Routing) -> Bool[Array, 'B E']:
    """Returns which expert ran on which example.

    A loss of expert e is `jnp.where(chosen(routing)[:, e], loss(y), 0)`.

    Args:
      routing: recorded by `HardSwitch`.

    Returns:
      One True in the row of each valid example, and none in rows of padding.
    """
    return routing.assignments()[0] > 0


def by_expert(
    y: Float[Array, 'B F'], routing: Routing
) -> tuple[Float[Array, 'E B F'], Bool[Array, 'E B']]:
    """Separates the outputs by expert, for a loss of each.

    Shapes are static, so that it works under jit, with gradients. Outside of
    jit `outputs[e][masks[e]]` are the rows of expert e alone:

        (output_a, output_b), (mask_a, mask_b) = by_expert(y, aux.routing)

    Args:
      y: outputs of `HardSwitch`.
      routing: recorded by it in the same call.

    Returns:
      The outputs of expert e in the rows of its own examples, 0 in the others;
      and a mask that is True where it ran.
    """
    masks = chosen(routing).T
    return jnp.where(masks[..., None], y, 0), masks

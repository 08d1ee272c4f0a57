"""Progressive layered extraction: levels of experts of tasks and of all.

B examples, T tasks, M experts of each task, S shared ones, D input width, H
output width.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from moe.experts import Network
from moe.experts.network import Penalty, Pointwise
from moe.layers.multitask.architectures import MakeNetwork, cgc
from moe.layers.multitask.gates import softmax
from moe.layers.multitask.multi_gate import MultiGate
from moe.totals import Derived, average, constant
from moe.types import Aux, Router, StateStatistic, Totals


class PLE(nn.Module):
    """Levels of `cgc`, whose outputs are the next level's inputs.

    A task's gate sees the task's experts and the shared ones; the shared gate,
    which the last level has none of, sees all. Above the first level a task's
    experts and gate take the task's output, shared ones the shared output.
    Source: Tang et al., PLE, RecSys 2020, section 4.3.

    Attributes:
      widths: widths of the layers of the experts, for each level.
      num_tasks: T, number of tasks.
      task_experts: M, number of experts of each task.
      shared_experts: S, number of shared experts.
      activation: after every layer but the last level's last, which is linear.
      network: makes a level's experts from `widths`, `num` and `activation`.
      router: router of every gate; see `MultiGate`.
      temperature: temperature of every gate.
      dropout: expert dropout of every gate.
      kernel_penalty: penalty of the kernels of the experts of all levels.
      bias_penalty: penalty of their biases.
    """

    widths: Sequence[Sequence[int]]
    num_tasks: int
    task_experts: int
    shared_experts: int
    activation: Pointwise = 'relu'
    network: MakeNetwork = Network
    router: Router = softmax
    temperature: float = 1.0
    dropout: float = 0.0
    kernel_penalty: Penalty = None
    bias_penalty: Penalty = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'B D'] | tuple[Array, Array],
        *,
        train: bool = False,
        mask: Bool[Array, 'B'] | None = None,
    ) -> tuple[Float[Array, 'B T H'], Aux]:
        """Runs the levels, each on the outputs of the one below.

        Args:
          x: inputs, or a pair of those of the experts and the gates of level 0.
          train: whether this is training. Randomness comes from the 'router'
            rng stream.
          mask: True for valid examples; None if all are.

        Returns:
          The outputs of the last level, and the Aux: losses are means over the
          levels, 'regularization' the sum; statistics are those of each level,
          named `level_0/gate` and so on.
        """
        parts: list[Aux] = []
        given: Any = x
        for i in range(len(self.widths)):
            level = self.level(i)
            y, aux = level.clone(name=f'level_{i}', parent=self)(
                given, train=train, mask=mask
            )
            parts.append(aux)
            if i + 1 < len(self.widths):
                given = self._inputs(y, i + 1)
        return y, over_levels(parts)

    def level(self, i: int) -> MultiGate:
        """Returns the layer of level i."""
        last = i == len(self.widths) - 1
        return cgc(
            functools.partial(
                self.network,
                self.widths[i],
                activation=level_activation(
                    self.activation, self.widths[i], last
                ),
            ),
            self.num_tasks,
            self.task_experts,
            self.shared_experts,
            shared_gate=not last,
            router=self.router,
            temperature=self.temperature,
            dropout=self.dropout,
            kernel_penalty=self.kernel_penalty,
            bias_penalty=self.bias_penalty,
            parent=None,
        )

    def _inputs(
        self, y: Float[Array, 'B N H'], i: int
    ) -> tuple[Float[Array, 'B E H'], Float[Array, 'B G H']]:
        """Returns the inputs of the experts and the gates of level i."""
        tasks = self.num_tasks
        # Broadcast, not taken by index: the gradient is a plain sum.
        many = lambda v, count: jnp.broadcast_to(
            v[:, :, None], (*v.shape[:2], count, v.shape[2])
        ).reshape(v.shape[0], -1, v.shape[2])
        own = many(y[:, :tasks], self.task_experts)
        shared = many(y[:, tasks:], self.shared_experts)
        is_last = i == len(self.widths) - 1  # without a shared gate
        gate_input = y[:, :tasks] if is_last else y
        return jnp.concatenate([own, shared], axis=1), gate_input


def level_activation(
    activation: Pointwise, widths: Sequence[int], last: bool
) -> tuple[Pointwise, ...]:
    """Returns activations of a level's layers; the last level ends linearly."""
    each = [activation] * len(widths)
    return (*each[:-1], 'linear' if last else activation)


def over_levels(parts: Sequence[Aux]) -> Aux:
    """Returns the Aux of all levels: mean losses, and the sum of penalties."""
    each = [part.totals for part in parts if part.totals]
    losses = {
        name: average([totals.losses[name] for totals in each])
        for name in each[0].losses
    }
    penalty = losses['regularization'].term * len(each)
    losses['regularization'] = constant(penalty)
    levels = [totals.stats for totals in each]
    stats = Derived(levels, levels[0].count, _by_level)
    state_statistics: dict[str, StateStatistic] = {}
    for part in parts:
        state_statistics |= part.state_statistics
    return Aux.of(Totals(losses, stats), state_statistics)


def _by_level(levels) -> dict[str, Array]:
    return {
        f'level_{i}/{name}': value
        for i, level in enumerate(levels)
        for name, value in level.term.items()
    }

"""Dispatch by a matrix of gates, for callers with experts of their own.

B examples, E experts, R rows, D and F widths.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from moe.dispatch.plan import Plan, grouped_plan
from moe.ops import collect, spread
from moe.types import Routing


class SparseDispatcher:
    """Rows of the examples by expert, and their outputs back in place.

    The rows are sorted by expert, within an expert in batch order, and
    `sizes` says how many each has, so that shapes are static under jit: with
    `experts(rows, sizes)` as `MLP` and `grouped_matmul` take them,

        dispatcher = SparseDispatcher(gates, k=2)
        rows = dispatcher.dispatch(x)
        y = dispatcher.combine(experts(rows, dispatcher.sizes))

    Source: the dispatcher of arXiv 1701.06538.

    Args:
      gates: [B, E] float32; example b is sent to expert e where the gate is
        not 0.
      k: most experts of an example, if that is known: R = B*k rows instead of
        B*E. Of more gates than k the first k that are not 0 count.

    Attributes:
      sizes: [E] int32, rows of each expert; rows past their sum are empty.

    Raises:
      ValueError: if k is not between 1 and E.
    """

    def __init__(self, gates: Float[Array, 'B E'], k: int | None = None):
        size, num_experts = gates.shape
        k = num_experts if k is None else k
        if not 1 <= k <= num_experts:
            raise ValueError(
                f'SparseDispatcher: k = {k} of {num_experts} experts'
            )
        chosen, expert = lax.top_k((gates != 0).astype(jnp.int32), k)
        gate = jnp.take_along_axis(gates, expert, axis=-1)
        # Each example a group of its own: rows are by expert, then by example.
        grid = lambda v: v[..., None]  # [B, k] to [G=B, k, S=1]
        self._gate = grid(gate)
        self._size = size
        self._plan: Plan = grouped_plan(
            Routing(
                expert=grid(expert),
                weight=self._gate,
                live=grid(chosen > 0),
                probs=gates[:, None],
                logits=gates[:, None],
                mask=jnp.ones((size, 1), bool),
            )
        )
        self.sizes: Int[Array, 'E'] = self._plan.sizes

    def dispatch(self, x: Float[Array, 'B D']) -> Float[Array, 'R D']:
        """Returns each expert's rows, one expert after another.

        Args:
          x: examples, float.
        """
        return spread(x, self._plan.token, self._plan.row)

    def combine(
        self, rows: Float[Array, 'R F'], *, multiply_by_gates: bool = True
    ) -> Float[Array, 'B F']:
        """Sums each example's rows, an example without any being 0.

        Args:
          rows: the experts' outputs in the order of `dispatch`.
          multiply_by_gates: whether each row is weighted by its gate.

        Returns:
          The sums, in the dtype of `rows`.
        """
        weight = self.expert_to_gates()
        if not multiply_by_gates:
            weight = (self._plan.token < self._size).astype(jnp.float32)
        plan = self._plan
        return collect(rows, weight, plan.token, plan.row, self._size)

    def expert_to_gates(self) -> Float[Array, 'R']:
        """Returns the gate of each row, 0 for empty ones."""
        gates = self._gate.reshape(-1)
        return jnp.take(gates, self._plan.assignment, mode='fill', fill_value=0)

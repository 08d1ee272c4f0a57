"""A dispatcher by a matrix of gates, for experts of the caller's own.

B examples, E experts, R rows, D and F widths.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from moe.config import ConfigError
from moe.dispatch.plan import Plan, grouped_plan
from moe.ops import combine_rows, dispatch_rows
from moe.types import TokenChoice


class SparseDispatcher:
    """Brings each expert the rows of its examples, and combines the outputs.

    The rows are sorted by expert, within an expert in batch order, and
    `sizes` says how many each expert has, so that shapes are static under jit:
    with `experts(rows, sizes)` as `MLP` and `grouped_matmul` take them,

        dispatcher = SparseDispatcher(gates, k=2)
        rows = dispatcher.dispatch(x)
        y = dispatcher.combine(experts(rows, dispatcher.sizes))

    Outside of jit the experts may also be any functions, one an expert:

        parts = dispatcher.split(dispatcher.dispatch(x))
        y = dispatcher.combine([f(p) for f, p in zip(functions, parts)])

    Source: the dispatcher of Shazeer et al., arXiv 1701.06538.

    Args:
      gates: [B, E] float32; example b is sent to expert e where the gate is
        not 0.
      k: the largest number of experts of an example, if known: R = B*k rows
        instead of B*E. Of more than k gates that are not 0 the first k count.

    Attributes:
      sizes: [E] int32, number of rows of each expert; rows past the sum are
        empty.

    Raises:
      ConfigError: if the gates are not of rank 2.
      ValueError: if k is not between 1 and E.
    """

    def __init__(self, gates: Float[Array, 'B E'], k: int | None = None):
        gates = jnp.asarray(gates)
        if gates.ndim != 2:
            allowed = '[B, E], an example a row'
            name = 'SparseDispatcher: shape of gates'
            raise ConfigError(name, gates.shape, allowed)
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
            TokenChoice(
                expert=grid(expert),
                weight=self._gate,
                valid=grid(chosen > 0),
                probs=gates[:, None],
                logits=gates[:, None],
                mask=jnp.ones((size, 1), bool),
            )
        )
        self.sizes: Int[Array, 'E'] = self._plan.sizes

    def dispatch(self, x: Float[Array, 'B D']) -> Float[Array, 'R D']:
        """Returns the rows of all experts, one expert after another.

        Args:
          x: examples, float.

        Raises:
          ConfigError: if the examples are not as many as the gates.
        """
        if np.ndim(x) != 2 or len(x) != self._size:
            allowed = f'[{self._size}, D], an example for each row of gates'
            raise ConfigError('dispatch: shape of x', np.shape(x), allowed)
        return dispatch_rows(x, self._plan.token, self._plan.row)

    def split(self, rows: Array) -> list[Array]:
        """Cuts rows, or what belongs to them, into one array an expert.

        Args:
          rows: [R, ...], such as the result of `dispatch` or `expert_to_gates`.

        Returns:
          E arrays, of expert e `[sizes[e], ...]`.

        Raises:
          ConfigError: under jit, where the sizes are not known, or if the rows
            are not as many as those of `dispatch`.
        """
        if len(rows) != self._plan.token.size:
            allowed = f'{self._plan.token.size}, the rows of dispatch'
            raise ConfigError('split: number of rows', len(rows), allowed)
        sizes = self._known_sizes()
        if sizes is None:
            allowed = 'used outside of jit; there pass rows and sizes on'
            raise ConfigError('SparseDispatcher.split', 'traced', allowed)
        edges = np.concatenate([[0], np.cumsum(sizes)])
        return [rows[start:stop] for start, stop in itertools.pairwise(edges)]

    def combine(
        self,
        outputs: Float[Array, 'R F'] | Sequence[Float[Array, 'n F']],
        *,
        multiply_by_gates: bool = True,
    ) -> Float[Array, 'B F']:
        """Sums the outputs of each example, 0 for one that had no expert.

        `y[b] = sum_e gates[b, e] * output_e(b)` over the experts of b.

        Args:
          outputs: the experts' outputs in the order of `dispatch`: all R rows;
            outside of jit also the filled ones alone, `[sum(sizes), F]`, or
            one array `[sizes[e], F]` for each expert.
          multiply_by_gates: whether each row is weighted by its gate.

        Returns:
          The sums, in the dtype of the outputs.

        Raises:
          ConfigError: if the outputs are not as many as the rows.
        """
        rows = self._all_rows(outputs)
        weight = self.expert_to_gates()
        if not multiply_by_gates:
            weight = (self._plan.token < self._size).astype(jnp.float32)
        plan = self._plan
        return combine_rows(rows, weight, plan.token, plan.row, self._size)

    def expert_to_gates(self) -> Float[Array, 'R']:
        """Returns the gate of each row, 0 for empty ones."""
        gates = self._gate.reshape(-1)
        return jnp.take(gates, self._plan.assignment, mode='fill', fill_value=0)

    def _known_sizes(self) -> np.ndarray | None:
        """Returns the number of rows of each expert; None under jit."""
        if isinstance(self.sizes, jax.core.Tracer):
            return None
        return np.asarray(self.sizes)

    def _all_rows(self, outputs) -> Float[Array, 'R F']:
        """Returns the outputs as [R, F], with zeros in empty rows."""
        sizes, num_rows = self._known_sizes(), self._plan.token.size
        lengths = [num_rows]
        allowed = f'[{num_rows}, F] under jit, the rows of dispatch'
        if sizes is not None:
            lengths.append(int(np.sum(sizes)))
            allowed = (
                f'[{num_rows}, F], the rows of dispatch, or {lengths[1]} rows '
                f'without the empty ones, or a list of {sizes.tolist()} rows'
            )
        if isinstance(outputs, Sequence):
            given: Any = [np.shape(part) for part in outputs]
            known = [] if sizes is None else [(n,) for n in sizes]
            same = bool(given) and [shape[:1] for shape in given] == known
            outputs = jnp.concatenate(list(outputs)) if same else None
        else:
            given = np.shape(outputs)
        if outputs is None or outputs.ndim != 2 or len(outputs) not in lengths:
            raise ConfigError('combine: outputs', given, allowed)
        return jnp.pad(outputs, [(0, num_rows - len(outputs)), (0, 0)])

"""Experts that several gates share: one output a task.

B examples, E experts, N gates, T tasks, D input width, Dg width of the gates'
input, H output width.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from moe import losses
from moe.experts.network import (
    Penalty,
    regularization,
    side_by_side,
)
from moe.layers.auxiliary import auxiliary, summarize
from moe.layers.checks import experts_per_token
from moe.layers.gate import Gate
from moe.layers.multitask.gates import softmax
from moe.parameters import declare_all
from moe.totals import Derived, Mean, average, constant
from moe.types import Aux, Context, Router, StateStatistic, Totals


class MultiGate(nn.Module):
    """E experts that all tasks share, and for each task a gate that mixes them.

    `y[b, n] = sum_e gate_n[b, e] * expert_e(x[b])` over the experts that gate
    n sees. Each gate is a `Gate` with its own kernel for the experts it sees;
    its router, losses and statistics know no others. Gates that see equally
    many experts are computed as one.
    Sources: Ma et al., MMoE, KDD 2018; Tang et al., PLE, RecSys 2020.

    Attributes:
      experts: a module [B, D] or [B, E, D] -> [B, E, H], e.g. `Network`; or
        one module [B, D] -> [B, H] for each expert, of any kind. They are
        called with `train` and `mask`.
      num_gates: N.
      num_tasks: T, outputs; None is N. One gate may serve all.
      router: any router; by default all experts by their probability.
      visible: [N, E], whether gate n sees expert e; None is everything.
      temperature: what the logits are divided by.
      dropout: probability that an expert is removed from a gate's choice for an
        example in training, never all that the gate sees.
        Source: Zhao et al., RecSys 2019.
      router_init: initializer of a gate's kernel [Dg, E].
      noise_init: initializer of a gate's noise kernel, for routers with one.
      kernel_penalty: penalty of the experts' kernels, as `regularization`
        takes it.
      bias_penalty: penalty of their biases.
    """

    experts: nn.Module | Sequence[nn.Module]
    num_gates: int
    num_tasks: int | None = None
    router: Router = softmax
    visible: Sequence[Sequence[bool]] | None = None
    temperature: float = 1.0
    dropout: float = 0.0
    router_init: Any = nn.initializers.zeros_init()
    noise_init: Any = nn.initializers.glorot_normal()
    kernel_penalty: Penalty = None
    bias_penalty: Penalty = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'B *E D'] | tuple[Array, Array],
        *,
        train: bool = False,
        mask: Bool[Array, 'B'] | None = None,
    ) -> tuple[Float[Array, 'B T H'], Aux]:
        """Runs the experts and mixes them.

        Args:
          x: inputs of experts and gates [B, D]; or a pair, of the experts
            [B, D], or each one's own [B, E, D], and of the gates [B, Dg], or
            each one's own [B, N, Dg].
          train: whether this is training. Randomness comes from the 'router'
            rng stream.
          mask: True for valid examples; None if all are. Padding counts in no
            loss and no statistic and gets output 0.

        Returns:
          The outputs, and the Aux: the losses of `auxiliary`, means over the
          gates, where 'importance' is by the population variance, and
          'regularization'; and the statistics of `auxiliary` for each gate
          [N, ...], 'gate' [N, E], the mean gate of each expert, and
          'importance_cv2' [N].

        Raises:
          ValueError: if the experts' widths differ, `visible` does not fit, or
            the router chooses more experts than a gate sees.
        """
        tasks = self.num_tasks or self.num_gates
        if self.num_gates not in (1, tasks):
            raise ValueError(
                f'MultiGate: {self.num_gates} gates for {tasks} tasks'
            )
        expert_input, gate_input = x if isinstance(x, Sequence) else (x, x)
        valid = jnp.ones(len(expert_input), bool) if mask is None else mask
        out = self._outputs(without_padding(expert_input, valid), train, mask)
        for module in self._modules:
            declare_all(module, first_axis='expert')
        seen = self._seen(out.shape[1])
        gates, groups, state_statistics = self._gates(
            without_padding(gate_input, valid).astype(jnp.float32),
            seen,
            valid,
            train,
        )
        y = jnp.einsum('nbe,beh->bnh', gates, out).astype(out.dtype)
        y = jnp.broadcast_to(y, (y.shape[0], tasks, y.shape[2]))
        losses = {
            name: average([g.losses[name] for g in groups], last_axis=True)
            for name in groups[0].losses
        }
        losses['regularization'] = constant(self._regularization())
        count = jnp.sum(valid, dtype=jnp.float32)
        mean_gate = Mean(jnp.sum(gates, axis=1), jnp.full(seen.shape, count))
        finish = _GateStats(tuple(map(tuple, seen.tolist())))
        stats = [group.stats for group in groups]
        totals = Totals(losses, Derived((stats, mean_gate), count, finish))
        return y, Aux.of(totals, state_statistics)

    def _outputs(self, x, train, mask) -> Float[Array, 'B E H']:
        if not isinstance(self.experts, Sequence):
            return self.experts(x, train=train, mask=mask)
        return side_by_side(self.experts, x, train=train, mask=mask)

    def _seen(self, num_experts: int) -> np.ndarray:
        """Returns whether each gate sees each expert, bool [N, E]."""
        shape = (self.num_gates, num_experts)
        if self.visible is None:
            return np.ones(shape, bool)
        seen = np.asarray(self.visible, bool)
        if seen.shape != shape or not np.all(np.any(seen, axis=1)):
            raise ValueError(
                f'MultiGate: visible must be {shape}, and True somewhere in '
                f'each row, not {seen.shape}: {seen.tolist()}'
            )
        return seen

    def _gates(self, x, seen, valid, train):
        """Returns dense gates [N, B, E], and the totals of the gates.

        Totals of the gates that see equally many experts are stacked. Third
        are the statistics of the routers' states by path, see `Aux`.
        """
        key = self.make_rng('router') if self.has_rng('router') else None
        context = functools.partial(
            Context, mask=valid[None], key=key, train=train
        )
        decide = functools.partial(_decide, context=context)
        position = jnp.arange(len(seen) * len(valid), dtype=jnp.int32)
        position = position.reshape(len(seen), -1)  # noise of its own
        gates, groups = [], []
        state_statistics: dict[str, StateStatistic] = {}
        for rows in _of_equal_size(seen):
            size = int(np.sum(seen[rows[0]]))
            k = experts_per_token(self.router)
            if k > size:
                raise ValueError(
                    f'MultiGate: k = {k}, but gate {rows[0]} sees {size} '
                    'experts'
                )
            gate = Gate(
                size,
                self.router,
                router_init=self.router_init,
                noise_init=self.noise_init,
                temperature=self.temperature,
                dropout=self.dropout,
                name=_name(rows, seen),
            )
            own = x if x.ndim == 2 else jnp.swapaxes(x, 0, 1)[rows]
            own_gates, totals, of_states = nn.vmap(
                decide,
                variable_axes={'params': 0, 'router_state': 0},
                split_rngs={'params': True},
                in_axes=(None if x.ndim == 2 else 0, 0),
            )(gate, own, position[rows])
            state_statistics |= of_states
            groups.append(totals)
            gates.append(_in_columns(own_gates, seen[rows]))
        return _in_rows(gates, seen), groups, state_statistics

    @property
    def _modules(self) -> Sequence[nn.Module]:
        if isinstance(self.experts, Sequence):
            return self.experts
        return [self.experts]

    def _regularization(self):
        params = [m.variables.get('params', {}) for m in self._modules]
        return regularization(params, self.kernel_penalty, self.bias_penalty)


def _decide(gate, x, position, *, context: Callable[..., Context]):
    """Returns one gate's dense gates [B, V], and what its `Aux` holds."""
    routing, state = gate(x[None], context(position=position[None]))
    summary = summarize(routing, state=state.values)
    importance = losses.importance_total(
        summary.gates, summary.mask, unbiased=False
    )
    totals = auxiliary(
        summary,
        routing.valid,
        extra_losses={'importance': lambda _: importance},
        extra_stats={'importance_cv2': importance},
    ).totals
    return summary.gates[0], totals, state.statistics


@dataclasses.dataclass(frozen=True)
class _GateStats:
    """The statistics of all gates, of those of equally many experts.

    Attributes:
      seen: whether each gate sees each expert, [N][E].
    """

    seen: tuple[tuple[bool, ...], ...]

    def __call__(self, sums) -> dict[str, Array]:
        stats, mean_gate = sums
        seen = np.array(self.seen)
        found: dict[str, Any] = {}
        for rows, part in zip(_of_equal_size(seen), stats, strict=True):
            size = int(np.sum(seen[rows[0]]))
            for name, value in part.term.items():
                if value.ndim == 2 and value.shape[1] == size:
                    value = _in_columns(value, seen[rows])
                found.setdefault(name, []).append(value)
        together = {name: _in_rows(v, seen) for name, v in found.items()}
        return together | {'gate': mean_gate.term}


def _in_columns(
    values: Float[Array, 'N *B V'], seen: Bool[np.ndarray, 'N E']
) -> Float[Array, 'N *B E']:
    """Scatters values of visible experts to all experts, 0 for the others."""
    if np.all(seen):
        return values
    where = np.zeros((len(seen), values.shape[-1], seen.shape[1]), np.float32)
    for n, row in enumerate(seen):
        where[n, np.arange(values.shape[-1]), np.flatnonzero(row)] = 1
    highest = jax.lax.Precision.HIGHEST
    return jnp.einsum('n...v,nve->n...e', values, where, precision=highest)


def _in_rows(parts: Sequence[Array], seen) -> Array:
    """Joins the gates that see equally many experts, in the gates' order."""
    joined = jnp.concatenate(parts)
    order = np.concatenate(_of_equal_size(seen))
    if np.all(order == np.arange(len(order))):
        return joined
    return joined[np.argsort(order)]


def _of_equal_size(seen) -> list[np.ndarray]:
    """Groups the gates by how many experts they see."""
    sizes = np.sum(seen, axis=1)
    distinct = dict.fromkeys(sizes.tolist())  # in their order
    return [np.flatnonzero(sizes == size) for size in distinct]


def _name(rows: np.ndarray, seen) -> str:
    """Returns the name of the gates that see equally many experts."""
    return f'gates_of_{np.sum(seen[rows[0]])}'


def without_padding(
    x: Float[Array, 'B *N D'], valid: Bool[Array, 'B']
) -> Float[Array, 'B *N D']:
    """Returns inputs with zeros for padding, which may hold anything.

    Args:
      x: inputs, float.
      valid: False for padding.
    """
    return jnp.where(valid.reshape(-1, *[1] * (x.ndim - 1)), x, 0)

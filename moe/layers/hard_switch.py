"""Switching between modules that are not alike.

B examples, E experts, A sorted rows, D and F widths.
"""

import functools
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from moe.dispatch import grouped
from moe.layers.account import account, dense
from moe.routing import top_k
from moe.types import Aux, Context, Routing

GateGradient = Literal['none', 'straight_through', 'probability']


class HardSwitch(nn.Module):
    """Runs exactly one of E different modules on each example.

    `y = expert_c(x)`, `c = argmax(logits)`, ties to the lowest index. A gate
    may give one logit fewer than there are experts: the first expert's is 0
    then. So of two experts the second runs where `sigmoid(logit) > 0.5`.

    Attributes:
      experts: E modules without randomness or state, see `Unlike`.
      gate: any module from x to logits [B, E] or [B, E - 1]; None is a dense
        layer, of one logit for two experts, else of E.
      gradient: what the gate learns from y. With p the softmax of the logits,
        'none' learns nothing; 'probability' returns `p_c * expert_c(x)`, and
        'straight_through' gives the gate the gradient of that, while y
        stays `expert_c(x)`.
      block_size: rows that an expert runs at a time, see `Unlike`.
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
        """Chooses, runs the chosen, and puts the outputs in place.

        Args:
          x: examples, float.
          mask: True for live ones; None if all are. No expert runs on
            padding, which gets output 0.
          train: not read; every mixture layer is called alike.
          record: whether to return the Routing in the Aux; `chosen` of it
            says who ran where, for losses of single experts.

        Returns:
          The outputs, and the Aux of `account` with one more statistic,
          'nan_gates': live examples with a logit that is not a number. They
          go to the first expert.

        Raises:
          ValueError: if the gate's logits do not fit the experts.
        """
        num_experts = len(self.experts)
        live = jnp.ones(len(x), bool) if mask is None else mask
        x = jnp.where(live[:, None], x, 0)
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
        # All equal, which is a tie; infinities compare, but have no softmax.
        logits = jnp.where(lost[:, None], 0.0, jnp.nan_to_num(logits))
        order = jnp.arange(len(x), dtype=jnp.int32)
        routing = top_k(logits[None], Context(live[None], order[None]), k=1)
        routing = routing._replace(
            weight=_weight(routing.weight, self.gradient)
        )
        run = Unlike(self.experts, self.block_size)
        nn.share_scope(self, run)  # its parameters are this layer's
        y, kept = grouped(x[None], routing, run, None)
        aux = account(routing, kept, record=record)
        aux.stats['nan_gates'] = jnp.sum((lost & live).astype(jnp.float32))
        return y[0], aux


def _weight(p, gradient: GateGradient):
    """Factor on the output of the chosen expert, of probability p."""
    one = jnp.ones_like(p)
    return {
        'none': one,
        'straight_through': one + (p - lax.stop_gradient(p)),
        'probability': p,
    }[gradient]


def chosen(routing: Routing) -> Bool[Array, 'B E']:
    """Which expert ran on which example.

    A loss of expert e is `jnp.where(chosen(routing)[:, e], loss(y), 0)`.

    Args:
      routing: recorded by `HardSwitch`.

    Returns:
      One True in the row of each live example, none in that of padding.
    """
    ones = jnp.ones(routing.expert.shape, jnp.float32)
    return dense(routing, ones)[0] > 0


class Unlike(nn.Module):
    """Different modules as experts, each run on its own rows alone.

    An expert's rows are cut into blocks of a fixed size, and as many blocks
    run as it has rows for: at most `A + E * (block_size - 1)` rows in all. The
    last block is filled up with copies of the expert's last row, on which it
    is as finite as it was before. The gradient runs the block again.

    Attributes:
      experts: E modules from rows [N, D] to rows [N, F], the same F and dtype
        for all; of parameters only, without randomness or state.
      block_size: rows of a block.
    """

    experts: tuple[nn.Module, ...]
    block_size: int = 64

    @property
    def num_experts(self) -> int:
        """E."""
        return len(self.experts)

    @nn.compact
    def __call__(
        self,
        rows: Float[Array, '... D'],
        sizes: Int[Array, 'E'] | None = None,
    ) -> Float[Array, '... F']:
        """Applies each expert to its own rows.

        Args:
          rows: sorted by expert, [A, D]; or, without sizes, padded buffers
            [E, N, D], which are run whole.
          sizes: rows of each expert, int32.

        Returns:
          The outputs; rows past the last expert's hold anything finite.

        Raises:
          ValueError: if the experts' outputs differ in shape or dtype.
        """
        if sizes is None:
            return jnp.stack([f(rows[e]) for e, f in enumerate(self.experts)])
        if self.is_initializing():
            for expert in self.experts:
                expert(rows[:1])
        functions, params = [], []
        for expert in self.experts:
            module, variables = expert.unbind()
            functions.append(functools.partial(_apply, module))
            params.append(variables.get('params', {}))
        block_size = min(self.block_size, len(rows))
        return _run(tuple(functions), block_size, params, rows, sizes)


def _apply(module, params, rows):
    return module.apply({'params': params}, rows)


class _Block(NamedTuple):
    """Rows of one expert, run together."""

    start: Int[Array, '']
    row: Int[Array, 'N']  # of each; past the expert's rows its last again
    own: Bool[Array, 'N']  # False for those copies

    def read(self, rows):
        return rows[self.row]

    def write(self, rows, values):
        # The copies fall on rows of later experts, who write after this one,
        # or past the last row, where there is room for a block.
        return lax.dynamic_update_slice_in_dim(rows, values, self.start, 0)


def _over_blocks(step, sizes, e, block_size, carry):
    """Calls `carry = step(block, carry)` for each block of expert e."""
    first = jnp.sum(sizes[:e])
    end = first + sizes[e]

    def body(i, carry):
        row = first + i * block_size + jnp.arange(block_size)
        block = _Block(row[0], jnp.minimum(row, end - 1), row < end)
        return step(block, carry)

    return lax.fori_loop(0, -(-sizes[e] // block_size), body, carry)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(functions, block_size, params, rows, sizes):
    """`out[r] = functions[e](params[e], rows[r])` for the rows r of e."""
    kinds = {
        jax.eval_shape(f, p, rows[:block_size])
        for f, p in zip(functions, params, strict=True)
    }
    if len(kinds) > 1:
        raise ValueError(f'Unlike: experts return different rows: {kinds}')
    (kind,) = kinds
    out = _blank(kind, len(rows) + block_size)
    for e, (function, p) in enumerate(zip(functions, params, strict=True)):

        def step(block, out, function=function, p=p):
            return block.write(out, function(p, block.read(rows)))

        out = _over_blocks(step, sizes, e, block_size, out)
    return out[: len(rows)]


def _forward(functions, block_size, params, rows, sizes):
    out = _run(functions, block_size, params, rows, sizes)
    return out, (params, rows, sizes)


def _backward(functions, block_size, residuals, d_out):
    params, rows, sizes = residuals
    d_rows = _blank(rows, len(rows) + block_size)
    d_params = []
    for e, (function, p) in enumerate(zip(functions, params, strict=True)):

        def step(block, carry, function=function, p=p):
            d_rows, d_p = carry
            _, pull = jax.vjp(function, p, block.read(rows))
            d = jnp.where(block.own[:, None], block.read(d_out), 0)
            more, d = pull(d)
            return block.write(d_rows, d), jax.tree.map(jnp.add, d_p, more)

        zeros = jax.tree.map(jnp.zeros_like, p)
        d_rows, d_p = _over_blocks(step, sizes, e, block_size, (d_rows, zeros))
        d_params.append(d_p)
    return d_params, d_rows[: len(rows)], None


def _blank(like, length):
    return jnp.zeros((length, *like.shape[1:]), like.dtype)


_run.defvjp(_forward, _backward)

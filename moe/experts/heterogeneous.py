"""Heterogeneous experts: modules of different architectures.

E experts, A sorted rows, N rows of a block, D and F widths.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


class HeterogeneousExperts(nn.Module):
    """Experts that are different modules, each run on its own rows alone.

    An expert's rows are cut into blocks of a fixed size, and as many blocks
    run as its rows need: at most `A + E * (block_size - 1)` rows in all. The
    last block is filled up with copies of the expert's last row, whose outputs
    are finite if that row's are. The backward pass runs each block again.

    Attributes:
      experts: E modules from rows [N, D] to rows [N, F], the same F and dtype
        for all; of parameters only, without randomness or state.
      block_size: number of rows of a block.
    """

    experts: tuple[nn.Module, ...]
    block_size: int = 64

    @property
    def num_experts(self) -> int:
        """Returns E, the number of experts."""
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
          The outputs; rows past the last expert's are finite, and not defined.

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
    """Rows of one expert that run as one batch."""

    start: Int[Array, '']
    row: Int[Array, 'N']  # index; past the expert's rows that of its last one
    own: Bool[Array, 'N']  # False for such copies

    def read(self, rows):
        return rows[self.row]

    def write(self, rows, values):
        # The copies fall on rows of later experts, which write after this one,
        # or past the last row, where the buffer has another block.
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
        raise ValueError(
            f'HeterogeneousExperts: experts return different rows: {kinds}'
        )
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

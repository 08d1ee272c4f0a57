"""Dispatchers bring tokens to experts and the experts' outputs back.

All compute `y[t] = sum over the assignments a of t within capacity of
weight[a] * expert_{e(a)}(x[t])`; they differ in how the rows are laid out.
"""

from collections.abc import Callable

import jax.numpy as jnp
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from moe.dispatch.base import DISPATCHERS, Experts
from moe.dispatch.plan import Plan, grouped_plan, padded_plan
from moe.ops import combine_rows, dispatch_rows
from moe.types import Routing


@DISPATCHERS.register('onehot')
def onehot(
    x: Float[Array, 'G S D'],
    routing: Routing,
    experts: Experts,
    capacity: int | None,
) -> tuple[Float[Array, 'G S F'], Bool[Array, 'G N M']]:
    """Dispatches and combines by one-hot einsums over [G, S, E, C].

    Simple, but quadratic in S.

    Source: Mesh-TensorFlow's dispatch, GShard, arXiv 2006.16668.

    Args:
      x: tokens, float.
      routing: any routing of the tokens.
      experts: the experts, called once with the buffers [E, G*C, D].
      capacity: C; None is a capacity of all tokens of a group.

    Returns:
      The combined outputs, in the dtype the experts return, and the
      assignments that were within capacity.
    """
    num_groups, group_size, _ = x.shape
    capacity = capacity or routing.max_per_expert()
    plan = padded_plan(routing, capacity)
    # [G, S, E, C]: every row of the buffer as a one-hot over its tokens.
    tokens = jnp.arange(num_groups * group_size, dtype=jnp.int32)
    token = plan.token.reshape(-1, num_groups, capacity)
    tokens = tokens.reshape(num_groups, group_size)
    hit = token.transpose(1, 0, 2)[:, None] == tokens[:, :, None, None]
    dispatch = hit.astype(x.dtype)
    weight = row_weight(routing, plan).reshape(-1, num_groups, capacity)
    combine = hit * weight.transpose(1, 0, 2)[:, None]
    buffers = jnp.einsum('gsec,gsd->egcd', dispatch, x)
    out = experts(rearrange(buffers, 'e g c d -> e (g c) d'))
    out = checkpoint_name(out, 'returned')
    out = rearrange(out, 'e (g c) f -> e g c f', g=num_groups)
    y = jnp.einsum('gsec,egcf->gsf', combine.astype(out.dtype), out)
    return y, plan.within_capacity


@DISPATCHERS.register('indexed')
def indexed(
    x: Float[Array, 'G S D'],
    routing: Routing,
    experts: Experts,
    capacity: int | None,
) -> tuple[Float[Array, 'G S F'], Bool[Array, 'G N M']]:
    """Gathers rows into buffers [E, G*C, D] and back, without [G, S, E, C].

    Source: Tutel's fast dispatch, arXiv 2206.03382. Arguments and results are
    those of `onehot`.
    """
    capacity = capacity or routing.max_per_expert()
    plan = padded_plan(routing, capacity)

    def run(rows):
        shape = (routing.num_experts, -1, rows.shape[-1])
        out = experts(rows.reshape(shape))
        return out.reshape(rows.shape[0], -1)

    return _through_rows(x, routing, plan, run)


@DISPATCHERS.register('grouped')
def grouped(
    x: Float[Array, 'G S D'],
    routing: Routing,
    experts: Experts,
    capacity: int | None,
) -> tuple[Float[Array, 'G S F'], Bool[Array, 'G N M']]:
    """Sorts rows by expert and multiplies them in groups, without padding.

    Source: MegaBlocks, arXiv 2211.15841. Arguments and results are those of
    `onehot`, but the experts are called with the sorted rows [A, D] and the
    group sizes [E].
    """
    plan = grouped_plan(routing, capacity)
    run = lambda rows: experts(rows, plan.sizes)
    # Rows past the last expert's are not read.
    return _through_rows(x, routing, plan, run, zeros=False)


def _through_rows(x, routing, plan: Plan, run: Callable, *, zeros=True):
    num_groups, group_size, width = x.shape
    flat = x.reshape(num_groups * group_size, width)
    out = run(dispatch_rows(flat, plan.token, plan.row, zeros=zeros))
    out = checkpoint_name(out, 'returned')
    weight = row_weight(routing, plan)
    y = combine_rows(out, weight, plan.token, plan.row, flat.shape[0])
    return y.reshape(num_groups, group_size, -1), plan.within_capacity


def row_weight(routing: Routing, plan: Plan) -> Float[Array, 'R']:
    """Returns the weight of the assignment in each row, 0 for empty rows.

    Args:
      routing: the routing whose weights are taken.
      plan: the plan of its rows.
    """
    weight = routing.weight.reshape(-1)
    return jnp.take(weight, plan.assignment, mode='fill', fill_value=0)

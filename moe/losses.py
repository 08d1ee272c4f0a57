"""Auxiliary losses of routing, one convention for all.

G groups, S tokens a group, E experts. Every loss is unweighted, float32, and
a mean over the valid tokens only; `axis_name` names the mesh axes the tokens
are split over, inside `shard_map` or `pmap`.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from moe.config import Registry
from moe.totals import Derived, Mean, Total, mean_over

AxisName = str | tuple[str, ...] | None
Scope = Literal['padded', 'group', 'global']

# Functions of a `moe.types.RoutingSummary`; their options are keyword-only.
AUXILIARY_LOSSES = Registry('auxiliary loss')


def load_balance(
    probs: Float[Array, 'G S E'],
    counts: Float[Array, 'G E'],
    mask: Bool[Array, 'G S'],
    *,
    scope: Scope = 'global',
    axis_name: AxisName = None,
) -> Float[Array, '']:
    """Load-balance loss, 1 at perfect balance whatever K.

    `E * sum_e f_e * p_e`, with `f_e` the share of the assignments that chose
    expert e, before any is dropped (no gradient), and `p_e` the mean router
    probability of e over valid tokens.
    Source: Switch Transformers, arXiv 2101.03961, eq. 4-6.

    Args:
      probs: router probabilities, float32, rows sum to 1.
      counts: valid assignments of each expert, before capacity.
      mask: True for valid tokens.
      scope: over what f and p are means: each 'group' (then the mean over
        groups that have tokens), or all of them, 'global'. 'padded' is
        for parity with GShard's first two-level code: over all S places of
        each group, of which f is a share, empty ones too.
      axis_name: mesh axes of the tokens; only 'global' sums over them.

    Returns:
      The loss, a float32 scalar; 0 if no token is valid.

    >>> half = jnp.full((1, 4, 2), 0.5)
    >>> even, mask = jnp.array([[2.0, 2.0]]), jnp.ones((1, 4), bool)
    >>> float(load_balance(half, even, mask))
    1.0
    """
    total = balance_total(probs, counts, mask, scope=scope)
    return sum_over(total, axis_name).term


def balance_total(
    probs: Float[Array, 'G S E'],
    counts: Float[Array, 'G E'],
    mask: Bool[Array, 'G S'],
    *,
    scope: Scope = 'global',
) -> Total:
    """Returns `load_balance` as a function of sums: of groups, or of tokens.

    Args:
      probs: see `load_balance`.
      counts: see `load_balance`.
      mask: see `load_balance`.
      scope: see `load_balance`.
    """
    valid = mask[..., None].astype(jnp.float32)
    sums = {
        'probs': jnp.sum(probs.astype(jnp.float32) * valid, axis=1),
        'tokens': jnp.sum(valid, axis=1),
        'counts': lax.stop_gradient(counts.astype(jnp.float32)),
    }
    if scope == 'global':
        sums = {name: jnp.sum(x, axis=0) for name, x in sums.items()}
        return Derived(sums, sums['tokens'][0], _balance)
    if scope == 'padded':
        sums['tokens'] = jnp.full_like(sums['tokens'], mask.shape[1])
        sums['assigned'] = sums['tokens']
    filled = sums['tokens'][:, 0] > 0
    return mean_over(filled, _balance(sums))


def _balance(sums) -> Float[Array, '*L']:
    counts, tokens = sums['counts'], sums['tokens']
    assigned = sums.get('assigned', jnp.sum(counts, axis=-1, keepdims=True))
    f = counts / jnp.maximum(assigned, 1.0)
    p = sums['probs'] / jnp.maximum(tokens, 1.0)
    return f.shape[-1] * jnp.sum(f * p, axis=-1)


def router_z(
    logits: Float[Array, 'G S E'],
    mask: Bool[Array, 'G S'],
    *,
    axis_name: AxisName = None,
) -> Float[Array, '']:
    """Router z-loss: mean over valid tokens of `logsumexp(logits)^2`.

    Source: ST-MoE, arXiv 2202.08906, eq. 5.

    Args:
      logits: router logits without noise, float32.
      mask: True for valid tokens.
      axis_name: mesh axes of the tokens.

    Returns:
      The loss, a float32 scalar; 0 if no token is valid.
    """
    return sum_over(router_z_total(logits, mask), axis_name).term


def router_z_total(
    logits: Float[Array, 'G S E'], mask: Bool[Array, 'G S']
) -> Mean:
    """Returns `router_z` as a mean over tokens.

    Args:
      logits: see `router_z`.
      mask: see `router_z`.
    """
    z = jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1)
    return mean_over(mask, jnp.square(z))


def cv_squared(
    amount: Float[Array, '*L E'], *, unbiased: bool = True
) -> Float[Array, '*L']:
    """Squared coefficient of variation: `var / (mean^2 + 1e-10)`.

    Source: arXiv 1701.06538, eq. 7.

    Args:
      amount: what each expert has, such as its load, float; layers in front.
      unbiased: whether the variance divides by E - 1, or by E.

    Returns:
      The ratio, float32; 0 for one expert.
    """
    if amount.shape[-1] == 1:
        return jnp.zeros(amount.shape[:-1], jnp.float32)
    amount = amount.astype(jnp.float32)
    variance = jnp.var(amount, axis=-1, ddof=int(unbiased))
    return variance / (jnp.square(jnp.mean(amount, axis=-1)) + 1e-10)


def importance(
    gates: Float[Array, 'G S E'], *, axis_name: AxisName = None
) -> Float[Array, '']:
    """CV^2 of the experts' summed gates, 0 at perfect balance.

    Source: arXiv 1701.06538, eq. 6-7.

    Args:
      gates: dense gates, 0 where not chosen or not valid, float32.
      axis_name: mesh axes of the tokens.

    Returns:
      The loss, a float32 scalar.
    """
    everyone = jnp.ones(gates.shape[:2], bool)
    return sum_over(importance_total(gates, everyone), axis_name).term


def importance_total(
    gates: Float[Array, 'G S E'],
    mask: Bool[Array, 'G S'],
    *,
    unbiased: bool = True,
) -> Derived:
    """Returns `importance` as a function of sums over tokens.

    Args:
      gates: see `importance`.
      mask: True for valid tokens.
      unbiased: see `cv_squared`.
    """
    amount = jnp.sum(gates, axis=(0, 1))
    how = cv_squared if unbiased else _population_cv_squared
    return Derived(amount, count_tokens(mask), how)


def _population_cv_squared(amount):
    return cv_squared(amount, unbiased=False)


def load(
    selection_probability: Float[Array, 'G S E'],
    mask: Bool[Array, 'G S'],
    *,
    axis_name: AxisName = None,
) -> Float[Array, '']:
    """CV^2 of the experts' expected loads, 0 at perfect balance.

    Source: arXiv 1701.06538, appendix A.

    Args:
      selection_probability: probability that a token is sent to e, were only
        e's noise redrawn, float32; without noise, 1 where the gate is positive.
      mask: True for valid tokens.
      axis_name: mesh axes of the tokens.

    Returns:
      The loss, a float32 scalar.
    """
    return sum_over(load_total(selection_probability, mask), axis_name).term


def load_total(
    selection_probability: Float[Array, 'G S E'], mask: Bool[Array, 'G S']
) -> Derived:
    """Returns `load` as a function of sums over tokens.

    Args:
      selection_probability: see `load`.
      mask: see `load`.
    """
    expected = jnp.where(mask[..., None], selection_probability, 0.0)
    amount = jnp.sum(expected, axis=(0, 1))
    return Derived(amount, count_tokens(mask), cv_squared)


def l1(
    gates: Float[Array, 'G S E'],
    mask: Bool[Array, 'G S'],
    *,
    axis_name: AxisName = None,
) -> Float[Array, '']:
    """Mean over valid tokens of their summed gates.

    Source: ReMoE, arXiv 2412.14711, eq. 6.

    Args:
      gates: dense gates, not negative, float32.
      mask: True for valid tokens.
      axis_name: mesh axes of the tokens.

    Returns:
      The loss, a float32 scalar.
    """
    return sum_over(l1_total(gates, mask), axis_name).term


def l1_total(
    gates: Float[Array, 'G S E'],
    mask: Bool[Array, 'G S'],
    *,
    factor: Float[Array, ''] | float = 1.0,
    active_share: Float[Array, ''] | None = None,
) -> Total:
    """Returns `l1` times a factor, perhaps weighted by load, as sums.

    With an active share a, the gates of expert e are times `n_e / (T a)`, for
    the n_e of T tokens whose gate is not 0: times 1 where as many are as are to
    be. Source: ReMoE, arXiv 2412.14711, the refined L1 loss.

    Args:
      gates: see `l1`.
      mask: see `l1`.
      factor: factor of the loss, float32.
      active_share: share of the gates that is to be active, float32; None
        weighs all experts alike.
    """
    gates = jnp.where(mask[..., None], gates, 0.0)
    tokens = count_tokens(mask)
    by_expert = jnp.sum(gates, axis=(0, 1)) * factor
    if active_share is None:
        return Mean(jnp.sum(by_expert), tokens)
    active = jnp.sum((gates > 0).astype(jnp.float32), axis=(0, 1))
    sums = {'gates': by_expert, 'active': active, 'tokens': tokens}
    sums['wanted'] = tokens * active_share
    return Derived(sums, tokens, _load_weighted)


def _load_weighted(sums) -> Float[Array, '*L']:
    total = jnp.sum(sums['gates'] * sums['active'], axis=-1)
    return total / jnp.maximum(sums['tokens'] * sums['wanted'], 1e-9)


def masked_mean(
    values: Float[Array, 'G S'],
    mask: Bool[Array, 'G S'],
    *,
    axis_name: AxisName = None,
) -> Float[Array, '']:
    """Returns the mean over the valid tokens of all devices; 0 if none is.

    Args:
      values: a number of each token, float32.
      mask: True for valid tokens.
      axis_name: mesh axes of the tokens.
    """
    return sum_over(mean_over(mask, values), axis_name).term


def count_tokens(mask: Bool[Array, 'G S']) -> Float[Array, '']:
    """Returns the number of valid tokens, float32.

    Args:
      mask: True for valid tokens.
    """
    return jnp.sum(mask.astype(jnp.float32))


def sum_over(tree, axis_name: AxisName):
    """Sums a pytree over mesh axes; the identity if there are none."""
    return tree if axis_name is None else lax.psum(tree, axis_name)

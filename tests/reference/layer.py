"""The mixture layer by loops over groups, tokens and choices, in float64.

G groups, S tokens a group, D width, E experts, K choices.
"""

from typing import NamedTuple

import numpy as np

from tests.reference import experts as reference_experts
from tests.reference import losses as reference_losses
from tests.reference import routing as reference_routing


class Output(NamedTuple):
    """What the layer computes; `[G, K, S]` for the assignments."""

    y: np.ndarray
    chosen: np.ndarray
    gates: np.ndarray
    kept: np.ndarray
    probs: np.ndarray
    logits: np.ndarray
    losses: dict
    stats: dict


def layer(x, router, experts, mask, options, bias=0.0):
    """The mixture of tokens x [G, S, D], whose groups are its sequences.

    Args:
      x: tokens.
      router: kernel [D, E].
      experts: stacked parameters of the experts.
      mask: live tokens [G, S].
      options: a dictionary of `k`, `renormalize`, `slots` (or None),
        `activation` and `scope` ('global' or 'group').
      bias: of the router's logits [E].
    """
    x = np.where(mask[..., None], x, 0.0)  # whatever padding holds
    num_groups, group_size, width = x.shape
    num_experts, k = router.shape[1], options['k']
    grid = (num_groups, k, group_size)
    chosen, gates = np.zeros(grid, int), np.zeros(grid)
    kept = np.zeros(grid, bool)
    logits = np.zeros((num_groups, group_size, num_experts))
    probs = np.zeros_like(logits)
    y = np.zeros((num_groups, group_size, width))
    for g in range(num_groups):
        for s in range(group_size):
            logits[g, s] = x[g, s] @ router + bias
            probs[g, s] = reference_routing.softmax(logits[g, s])
            chosen[g, :, s], gates[g, :, s] = (
                reference_routing.softmax_then_select(
                    logits[g, s], k, options['renormalize']
                )
            )
        live = np.stack([mask[g]] * k)
        kept[g] = reference_routing.keep(chosen[g], live, options['slots'])
        for c, s in np.argwhere(kept[g]):
            expert = reference_experts.expert_of(experts, chosen[g, c, s])
            out = reference_experts.mlp(x[g, s], expert, options['activation'])
            y[g, s] += gates[g, c, s] * out
    counts = count(chosen, mask, num_experts)
    dense, hits = np.zeros_like(probs), np.zeros_like(probs)
    for g, c, s in np.ndindex(grid):
        dense[g, s, chosen[g, c, s]] += gates[g, c, s]
        hits[g, s, chosen[g, c, s]] += 1
    losses = {
        'load_balance': load_balance(probs, counts, mask, options['scope']),
        'sequence_balance': reference_losses.sequence_balance(
            probs, hits, mask
        ),
        'router_z': router_z(logits, mask),
        'importance': reference_losses.importance(dense, mask),
        'load': reference_losses.load(hits, mask),
        'l1': reference_losses.l1(dense, mask),
    }
    stats = statistics(probs, counts, kept, mask)
    stats['logit_rms'] = logit_rms(logits, mask)
    return Output(y, chosen, gates, kept, probs, logits, losses, stats)


def count(chosen, mask, num_experts):
    """Assignments [G, E] of the live tokens, whether kept or not."""
    counts = np.zeros((len(chosen), num_experts))
    for g, c, s in np.ndindex(chosen.shape):
        if mask[g, s]:
            counts[g, chosen[g, c, s]] += 1
    return counts


def balance_parts(probs, counts, mask, scope):
    """(group numbers, share f [E], mean probability p [E], tokens) a scope.

    Scopes without a live token are left out.
    """
    every = range(len(mask))
    parts = []
    for groups in [[g] for g in every] if scope == 'group' else [every]:
        rows = [probs[g, s] for g in groups for s in np.flatnonzero(mask[g])]
        if rows:
            assigned = sum(counts[g] for g in groups)
            f = assigned / np.sum(assigned)
            parts.append((groups, f, np.mean(rows, axis=0), len(rows)))
    return parts


def load_balance(probs, counts, mask, scope):
    """`E sum_e f_e p_e`, its mean over the scopes; 0 if nothing is live."""
    parts = balance_parts(probs, counts, mask, scope)
    values = [probs.shape[-1] * np.sum(f * p) for _, f, p, _ in parts]
    return np.mean(values) if values else 0.0


def log_sum_exp(logits):
    """Of one token's logits [E]."""
    return np.max(logits) + np.log(np.sum(np.exp(logits - np.max(logits))))


def logit_rms(logits, mask):
    """Root of the mean square of the logits of live tokens."""
    return np.sqrt(np.mean(logits[mask] ** 2)) if np.any(mask) else 0.0


def router_z(logits, mask):
    """Mean over live tokens of the squared log-sum-exp."""
    values = [log_sum_exp(row) ** 2 for row in logits[mask]]
    return np.mean(values) if values else 0.0


def statistics(probs, counts, kept, mask):
    """All that is reported of a layer's routing."""
    assigned = np.sum(counts)
    load = np.sum(counts, axis=0) * probs.shape[-1] / max(assigned, 1)
    entropy = [-np.sum(p * np.log(p)) for p in probs[mask]]
    confidence = [np.max(p) for p in probs[mask]]
    return {
        'load': load,
        'load_max': np.max(load),
        'load_min': np.min(load),
        'load_cv': np.std(load) / np.mean(load) if assigned else 0.0,
        'max_violation': np.max(load) - 1,
        'entropy': np.mean(entropy) if entropy else 0.0,
        'confidence': np.mean(confidence) if confidence else 0.0,
        'dropped': (assigned - np.sum(kept)) / max(assigned, 1),
        'dead_experts': np.sum(load == 0),
        'experts_per_token': assigned / max(np.sum(mask), 1),
    }


def objective(x, router, experts, mask, options, dy, coefficients):
    """`sum(y * dy)` plus the weighted losses: what `gradients` is of."""
    out = layer(x, router, experts, mask, options)
    weighted = [c * out.losses[name] for name, c in coefficients.items()]
    return np.sum(out.y * dy) + sum(weighted)


def gradients(x, router, experts, mask, options, dy, coefficients):
    """Gradients of `objective`, the routing decisions held fixed.

    The weighted losses are load_balance and router_z.
    """
    out = layer(x, router, experts, mask, options)
    num_experts, activation = router.shape[1], options['activation']
    d_x, d_router = np.zeros(x.shape), np.zeros(router.shape)
    d_experts = {name: np.zeros(v.shape) for name, v in experts.items()}
    d_probs, d_logits = np.zeros(out.probs.shape), np.zeros(out.logits.shape)
    # Through the experts and the gates, one kept assignment at a time.
    d_gates = np.zeros(out.gates.shape)
    for g, c, s in np.argwhere(out.kept):
        e = out.chosen[g, c, s]
        expert = reference_experts.expert_of(experts, e)
        expert_out = reference_experts.mlp(x[g, s], expert, activation)
        d_gates[g, c, s] = np.sum(expert_out * dy[g, s])
        token, params = reference_experts.mlp_gradients(
            x[g, s], expert, activation, out.gates[g, c, s] * dy[g, s]
        )
        d_x[g, s] += token
        for name, value in params.items():
            d_experts[name][e] += value
    # Gates to probabilities; renormalised: g = p / sum(p).
    for g, s in np.ndindex(mask.shape):
        experts_of_token = out.chosen[g, :, s]
        gates, d = out.gates[g, :, s], d_gates[g, :, s]
        if options['renormalize'] and options['k'] > 1:
            total = np.sum(out.probs[g, s, experts_of_token])
            d = (d - np.sum(d * gates)) / total
        d_probs[g, s, experts_of_token] += d
    # The balance loss reaches the probabilities, the z-loss the logits.
    counts = count(out.chosen, mask, num_experts)
    parts = balance_parts(out.probs, counts, mask, options['scope'])
    for groups, f, _, tokens in parts:
        scale = coefficients['load_balance'] / len(parts)
        for g in groups:
            d_probs[g, mask[g]] += scale * num_experts * f / tokens
    for g, s in np.argwhere(mask):
        z = log_sum_exp(out.logits[g, s])
        scale = coefficients['router_z'] / np.sum(mask)
        d_logits[g, s] += scale * 2 * z * out.probs[g, s]
    # The softmax, and the router's product.
    for g, s in np.ndindex(mask.shape):
        p, d = out.probs[g, s], d_probs[g, s]
        d_logits[g, s] += p * (d - np.sum(p * d))
        d_router += np.outer(x[g, s], d_logits[g, s])
        d_x[g, s] += router @ d_logits[g, s]
    return {'x': d_x, 'router': d_router, 'experts': d_experts}

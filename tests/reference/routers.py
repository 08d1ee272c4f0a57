"""Routers, one token at a time where a token is all they need, in float64.

A token's choices are a list with an entry for each choice: `(expert, weight)`,
or None where the choice does not exist. Beside it go the probabilities [E]
that the losses see.
"""

import numpy as np

from tests.reference.losses import normal_cdf
from tests.reference.routing import largest, softmax


def sigmoid(x):
    """Logistic function, without overflow."""
    x = np.float64(x)
    powers = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, powers) / (1 + powers)


def top2(logits, policy, threshold=0.2, draw=None, importance=1.0):
    """Two experts, and whether the second is kept.

    Args:
      logits: [E].
      policy: 'all', 'none', 'threshold', or 'random' by the uniform `draw`.
      threshold: of the last two.
      draw: a number between 0 and 1.
      importance: 1 of a token with both choices, 0.5 of one whose best expert
        is its second choice, 0 of one with none.
    """
    probs = softmax(logits)
    order = largest(probs, 2)
    if importance == 1.0:
        (first, second), p = order, probs[order]
    else:
        first, second = None, order[0]
        p = [0.0, probs[second]]
    total = p[0] + p[1] + 1e-9
    gate = p[1] / total
    kept = {
        'all': True,
        'none': False,
        'threshold': gate > threshold,
        'random': draw is not None and draw < gate / threshold,
    }[policy]
    choices = [None, None]
    if first is not None:
        choices[0] = (first, p[0] / total)
    if kept and importance > 0:
        choices[1] = (second, gate)
    return choices, probs * (importance == 1.0)


def noisy_top_k(logits, k, noise=None, noise_logits=None, epsilon=1e-2):
    """Choices, probabilities, and the chance of each expert to be chosen.

    Without noise the chance is None, and also where K is E.
    """
    logits = np.float64(logits)
    noisy, std = logits, None
    if noise is not None:
        std = np.log1p(np.exp(np.float64(noise_logits))) + epsilon
        noisy = logits + std * noise
    chosen = largest(noisy, k)
    probs = softmax(noisy)
    gates = softmax(noisy[chosen]) if k > 1 else probs[chosen]
    chance = None
    if std is not None and k < len(logits):
        chance = np.zeros(len(logits))
        for e in range(len(logits)):
            # The least of the K that e has to be among, e itself left out.
            others = sorted(np.delete(noisy, e), reverse=True)
            chance[e] = normal_cdf((logits[e] - others[k - 1]) / std[e])
    return list(zip(chosen, gates, strict=True)), probs, chance


def sigmoid_top_k(logits, bias, k, renormalize=True, scale=1.0, allowed=None):
    """Chosen by score plus bias, among the allowed experts."""
    scores = sigmoid(logits)
    biased = scores + np.float64(bias)
    if allowed is not None:
        biased = np.where(allowed, biased, -np.inf)
    chosen = largest(biased, k)
    gates = scores[chosen]
    if renormalize and k > 1:
        gates = gates / np.sum(gates)
    probs = scores / np.sum(scores)
    return list(zip(chosen, scale * gates, strict=True)), probs


def allowed_experts(logits, bias, expert_groups, chosen_groups):
    """Experts of the groups whose two greatest biased scores sum highest."""
    biased = sigmoid(logits) + np.float64(bias)
    size = len(biased) // expert_groups
    groups = [biased[i * size : (i + 1) * size] for i in range(expert_groups)]
    best = largest([sum(sorted(g)[-2:]) for g in groups], chosen_groups)
    return [e // size in best for e in range(len(biased))]


def expert_choice(logits, mask, slots):
    """Tokens [S] of one group, taken by the experts.

    Returns:
      For each expert its list of (token, weight), greatest first and at most
      as many as there are live tokens; and the probabilities [S, E].
    """
    probs = np.array([softmax(row) for row in logits])
    live = np.flatnonzero(mask).tolist()
    taken = []
    for e in range(probs.shape[1]):
        order = sorted(live, key=lambda s, e=e: (-probs[s, e], s))[:slots]
        taken.append([(s, probs[s, e]) for s in order])
    return taken, probs


def balanced_plan(logits, mask, iterations):
    """Sinkhorn's plan of all tokens [T, E]; rows of padding do not count."""
    powers = np.exp(np.float64(logits))
    column = np.ones(powers.shape[1])
    for _ in range(iterations):
        mass = np.zeros(powers.shape[1])
        for t in np.flatnonzero(mask):
            row = powers[t] * column
            mass += row / np.sum(row)
        if np.any(mask):
            column = column / (mass / np.mean(mass))
    plan = powers * column
    return plan / np.sum(plan, axis=1, keepdims=True)


def sinkhorn(logits, scores, k):
    """Chosen by the scores [E] of a plan, weighted by the logits' sigmoid."""
    chosen = largest(scores, k)
    gates = sigmoid(np.asarray(logits)[chosen])
    return list(zip(chosen, gates, strict=True)), softmax(logits)


def neighbours(first, num_experts, k):
    """K experts from the first on, around the corner, of weight 1 / K."""
    choices = [((first + i) % num_experts, 1 / k) for i in range(k)]
    probs = np.zeros(num_experts)
    for e, weight in choices:
        probs[e] += weight
    return choices, probs


def hashed(token_id, num_experts, k, vocab_size, seed=0):
    """The expert of an id in a shuffled pack, dealt out in turn."""
    order = np.random.default_rng(seed).permutation(vocab_size)
    return neighbours(int(order[token_id]) % num_experts, num_experts, k)


def uniform(position, num_experts, k):
    """Dealt out by position."""
    return neighbours(position * k, num_experts, k)


def top_p(logits, p, k):
    """Experts until their mass reaches p; the first one always."""
    probs = softmax(logits)
    choices, mass = [], 0.0
    for e in largest(probs, k):
        enough = bool(choices) and mass >= p
        choices.append(None if enough else (e, probs[e]))
        mass += probs[e]
    return choices, probs


def relu(logits, k):
    """The K greatest of the positive logits."""
    gates = np.maximum(np.float64(logits), 0)
    choices = [
        (e, gates[e]) if gates[e] > 0 else None for e in largest(gates, k)
    ]
    total = np.sum(gates)
    return choices, gates / total if total else np.full(
        len(gates), 1 / len(gates)
    )


def assemble(tokens, mask, k):
    """Arrays of a Routing out of each token's (choices, probs).

    Args:
      tokens: [G][S] of (choices, probs).
      mask: [G, S], live tokens.
      k: K, rows of the grid.

    Returns:
      A dictionary of expert, weight and live [G, K, S], with 0 where not
      live, and of probs [G, S, E].
    """
    num_groups, size = mask.shape
    expert = np.zeros((num_groups, k, size), int)
    weight, live = np.zeros(expert.shape), np.zeros(expert.shape, bool)
    for g, s in np.argwhere(mask):
        choices = tokens[g][s][0]
        assert len(choices) == k
        for row, choice in enumerate(choices):
            if choice is not None:
                expert[g, row, s], weight[g, row, s] = choice
                live[g, row, s] = True
    probs = np.array([[token[1] for token in group] for group in tokens])
    return {'expert': expert, 'weight': weight, 'live': live, 'probs': probs}

"""The loops that routers equal, and what each is given beside its logits.

An oracle takes (draw, g, s) and the router's options, and returns one token's
choices and probabilities. What ends in `_also` asserts what else holds of the
results of a cell: draws, each with its Routing and what was expected of it.
"""

import itertools
from typing import NamedTuple

import jax
import numpy as np

from moe.routing import token_normal, token_uniform
from tests.reference import losses as reference_losses
from tests.reference import routers as reference
from tests.reference import routing as reference_routing
from tests.reference.compare import assert_close
from tests.routing.common import (
    KEY,
    POSITION,
    E,
    G,
    S,
    accounted,
    draw,
)

# Greater than the scores' differences: they change choices.
BIAS = np.float32([0.3, -0.4, 0.0, 0.2, -0.1])
BIAS_8 = np.float32([-0.9, -0.8, 0.3, 0.1, 0.2, -0.6, 0.0, -0.95])
NOISE = np.float64(token_normal(KEY, POSITION, E))
DRAWS = np.float64(token_uniform(KEY, POSITION, 1))[..., 0]
# What `random` draws by in evaluation, whatever its key.
STILL = np.float64(token_uniform(jax.random.key(0), POSITION, 1))[..., 0]
# The second gates of `draw` are between 1/(1 + e^.9) = .29 and 1/(1 + e^.1) =
# .475, the draws between .02 and .65: these separate the tokens.
THRESHOLD = {'threshold': 0.4, 'random': 0.8, 'all': 0.2, 'none': 0.2}


class Draw(NamedTuple):
    """What a router is given: logits [G, S, E], and a context's fields."""

    logits: np.ndarray
    mask: np.ndarray
    train: bool
    fields: dict

    def row(self, g, s):
        """Logits [E] of one token."""
        return np.float64(self.logits[g, s])


def logits_stay(results, options):
    """What the losses see of the logits is what the router was given."""
    for drawn, routing, _ in results:
        np.testing.assert_array_equal(routing.logits, drawn.logits)


def top_k(draw, g, s, *, k, renormalize=True):
    row = draw.row(g, s)
    chosen, gates = reference_routing.softmax_then_select(row, k, renormalize)
    choices = list(zip(chosen, gates, strict=True))
    return choices, reference_routing.softmax(row)


def switch(draw, g, s):
    probs = reference_routing.softmax(draw.row(g, s))
    best = int(np.argmax(probs))
    return [(best, probs[best])], probs


def switch_also(results, options):
    logits_stay(results, options)
    assert all(routing.balance_mask is None for _, routing, _ in results)


def policies():
    """Every policy in training and in evaluation; the other mode's differs."""
    for train, policy in itertools.product((True, False), THRESHOLD):
        mine, other = ('', 'eval_') if train else ('eval_', '')
        yield (
            train,
            {
                f'{mine}policy': policy,
                f'{mine}threshold': THRESHOLD[policy],
                f'{other}policy': 'none' if policy == 'all' else 'all',
            },
        )


def policy_of(train, options):
    return options['policy' if train else 'eval_policy']


def top2(draw, g, s, **options):
    policy = policy_of(draw.train, options)
    importance = draw.fields.get('importance', np.ones((G, S)))[g, s]
    args = (policy, THRESHOLD[policy], DRAWS[g, s], importance)
    return reference.top2(draw.row(g, s), *args)


def top2_also(results, options):
    logits_stay(results, options)
    seconds = 0
    for drawn, routing, desired in results:
        seconds += desired['live'][:, 1].sum()
        # The balance loss counts first choices, and they alone.
        np.testing.assert_array_equal(routing.balance_mask[:, 0], drawn.mask)
        assert not np.any(routing.balance_mask[:, 1])
    policy = policy_of(results[0][0].train, options)
    live = sum(drawn.mask.sum() for drawn, _, _ in results)
    if policy in ('all', 'none'):
        assert seconds == {'all': live, 'none': 0}[policy]
    else:
        assert 0 < seconds < live


def importance_of(seed, mask):
    rng = np.random.default_rng(seed)
    importance = rng.choice([1.0, 0.5, 0.0], (G, S)).astype(np.float32)
    return {'importance': importance}


def importance_also(results, options):
    for drawn, routing, _ in results:
        whole = drawn.mask & (drawn.fields['importance'] == 1)
        np.testing.assert_array_equal(routing.balance_mask[:, 0], whole)
        sums = routing.probs.sum(-1)[drawn.mask]
        np.testing.assert_allclose(sums, whole[drawn.mask], atol=1e-6)


def noise_logits(seed, mask=None):
    rng = np.random.default_rng(100 + seed)
    noise = rng.uniform(-3, 0, (G, S, E)).astype(np.float32)
    return {'noise_logits': noise}


def noisy(draw, g, s, *, k):
    """Choices, probabilities and chances of one token."""
    noise = NOISE[g, s] if draw.train else None
    scale = np.float64(draw.fields['noise_logits'][g, s])
    return reference.noisy_top_k(draw.row(g, s), k, noise, scale)


def noisy_also(results, options):
    logits_stay(results, options)  # without the noise
    for drawn, routing, desired in results:
        if not drawn.train or options['k'] == E:
            assert routing.selection_probability is None
            continue
        chance, dense = np.zeros((2, G, S, E))
        for g, s in np.ndindex(G, S):
            chance[g, s] = noisy(drawn, g, s, **options)[2]
        assert_close(routing.selection_probability, chance, 1e-5)
        # The losses: importance of the gates, load of the chances.
        for g, row, s in np.argwhere(desired['live']):
            e = desired['expert'][g, row, s]
            dense[g, s, e] += desired['weight'][g, row, s]
        losses = {
            'importance': reference_losses.importance(dense, drawn.mask),
            'load': reference_losses.load(chance, drawn.mask),
        }
        aux = accounted(routing)
        assert_close({name: aux.losses[name] for name in losses}, losses, 1e-5)


def sigmoid(draw, g, s, **options):
    return reference.sigmoid_top_k(draw.row(g, s), BIAS, **options)


def group_limited(draw, g, s, *, expert_groups, chosen_groups, **options):
    row = draw.row(g, s)
    allowed = reference.allowed_experts(
        row, BIAS_8, expert_groups, chosen_groups
    )
    return reference.sigmoid_top_k(row, BIAS_8, **options, allowed=allowed)


def group_limited_also(results, options):
    size = len(BIAS_8) // options['expert_groups']
    for _, routing, _ in results:
        used = np.sort(routing.expert // size, axis=1)
        number = 1 + np.sum(np.diff(used, axis=1) > 0, axis=1)
        assert np.all(number <= options['chosen_groups'])


def plan_of(draw, iterations):
    logits = np.float64(draw.logits).reshape(-1, E)
    return reference.balanced_plan(logits, draw.mask.ravel(), iterations)


def sinkhorn(draw, g, s, *, k, iterations=8):
    """By the plan in training, and by the logits themselves otherwise."""
    row = draw.row(g, s)
    scores = plan_of(draw, iterations)[g * S + s] if draw.train else row
    return reference.sinkhorn(row, scores, k)


def sinkhorn_also(results, options):
    # No rounding can change a choice.
    for drawn, _, _ in results:
        if drawn.train:
            plan = plan_of(drawn, options['iterations'])[drawn.mask.ravel()]
            order = np.sort(np.log(plan), axis=-1)
            assert np.all(np.diff(order, axis=-1) > 1e-5)


def top_p(draw, g, s, *, p, k):
    return reference.top_p(draw.row(g, s), p, k)


def top_p_also(results, options):
    # The number depends on the token, except where p or K decides alone.
    p, k = options['p'], options['k']
    numbers = set()
    for drawn, _, desired in results:
        numbers |= set(desired['live'].sum(1)[drawn.mask].tolist())
    if p in (0.0, 1.0) or k == 1:
        assert numbers == {1 if p == 0 else k}
    else:
        assert len(numbers) >= 1
        assert max(numbers) <= k


def relu_logits(seed):
    logits = draw(seed)
    logits[0, 1] = [-1, -2, -0.5, -3, -1]  # no expert at all
    logits[1, 0] = [-1, -2, 0.0, -3, 0.5]  # a zero is not positive
    return logits


def relu(draw, g, s, *, k):
    return reference.relu(draw.row(g, s), k)


def relu_also(results, options):
    for drawn, routing, desired in results:
        assert not desired['live'][0, :, 1].any()
        assert desired['live'][1, :, 0].sum() == drawn.mask[1, 0]
        np.testing.assert_allclose(routing.probs.sum(-1), 1, rtol=1e-5)


def token_ids(seed, mask=None):
    rng = np.random.default_rng(seed)
    return {'token_id': rng.integers(0, 32, (G, S), np.int32)}


def hash_router(draw, g, s, **options):
    return reference.hashed(draw.fields['token_id'][g, s], E, **options)


def round_robin(draw, g, s, *, k):
    return reference.uniform(int(POSITION[g, s]), E, k)


def random(draw, g, s, *, k):
    draws = DRAWS if draw.train else STILL
    return reference.neighbours(int(draws[g, s] * E), E, k)


def expert_choice(routing, draw, options):
    """Compares the tokens that each expert took, greatest gate first."""
    factor = f'{options["capacity_factor"]:g}'
    slots = reference_routing.capacity(S, E, 1, factor)
    assert slots == {'2': 3, '0.5': 1, '9': S}[factor]
    assert routing.weight.shape == (G, E, slots)
    for g in range(G):
        taken, probs = reference.expert_choice(
            np.float64(draw.logits[g]), draw.mask[g], slots
        )
        assert_close(routing.probs[g], probs, 1e-6)
        for e in range(E):
            assert np.all(routing.assignment_expert()[g, e] == e)
            live = routing.valid[g, e]
            assert live.sum() == min(slots, draw.mask[g].sum())
            tokens = routing.token[g, e][live]
            assert tokens.tolist() == [s for s, _ in taken[e]]
            weights = np.array([w for _, w in taken[e]])
            assert_close(routing.weight[g, e][live], weights, 1e-6)

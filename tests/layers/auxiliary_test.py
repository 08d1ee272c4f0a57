"""The auxiliary losses of a routing: every loss and statistic, by the loops."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.layers.auxiliary import (
    LOSSES,
    auxiliary,
    load_balance,
    losses_with_effect,
    summarize,
)
from moe.losses import AUXILIARY_LOSSES
from moe.routing import ROUTERS
from tests import grids
from tests.reference import layer as reference
from tests.reference import losses as reference_losses
from tests.reference.compare import assert_close
from tests.routing import table

G, S, E = 2, 6, 5


def route(seed, rows=2, live=0.67, token=False, **fields):
    """A random Routing; in a row of expert choice, an expert's tokens."""
    rng = np.random.default_rng(seed)
    mask = rng.random((G, S)) < 0.8
    if token:
        shape = (G, E, 3)
        expert = np.broadcast_to(np.arange(E)[:, None], shape)
        tokens = rng.permuted(np.tile(np.arange(S), (G, E, 1)), axis=-1)
        tokens = tokens[..., :3].astype(np.int32)
        alive = np.stack([mask[g][tokens[g]] for g in range(G)])
    else:
        expert = np.argsort(rng.random((G, S, E)), axis=-1)[..., :rows]
        expert, tokens = expert.transpose(0, 2, 1), None
        alive = np.repeat(mask[:, None], rows, axis=1)
    routing = grids.make(
        expert=expert.astype(np.int32),
        weight=rng.random(expert.shape).astype(np.float32),
        valid=alive & (rng.random(expert.shape) < live),
        probs=rng.dirichlet(np.ones(E), (G, S)).astype(np.float32),
        logits=rng.normal(size=(G, S, E)).astype(np.float32),
        mask=mask,
        token=tokens,
    )
    return routing.replace(**fields)


def spread(routing, values, live=None):
    """`dense` by a loop."""
    total = np.zeros((G, S, E))
    for g, n, m in np.argwhere(routing.valid if live is None else live):
        s = grids.token_of(routing)[g, n, m]
        total[g, s, grids.expert_of(routing)[g, n, m]] += values[g, n, m]
    return total


@pytest.mark.parametrize('token', [False, True])
def test_dense_equals_the_loop(token):
    for seed in range(3):
        routing = route(seed, token=token)
        got = jax.jit(lambda r: r.gates())(routing)
        assert got.dtype == jnp.float32
        assert_close(got, spread(routing, routing.weight), 1e-6)


@pytest.mark.parametrize('token', [False, True])
def test_counts_of_experts(token):
    # Ones sum to each expert's live assignments, group by group.
    routing = route(1, token=token)
    desired = np.zeros((G, E))
    for index in np.argwhere(routing.valid):
        desired[index[0], grids.expert_of(routing)[tuple(index)]] += 1
    chosen = routing.assignments()
    np.testing.assert_array_equal(jnp.sum(chosen, axis=1), desired)


def test_dense_adds_up_and_carries_the_gradient():
    # Token 0 names expert 2 twice; token 1's second choice is not live.
    routing = route(0).replace(
        expert=np.int32([[[2, 0], [2, 1]]]),
        valid=np.array([[[True, True], [True, False]]]),
        probs=np.zeros((1, 2, 3), np.float32),
        mask=np.ones((1, 2), bool),
    )
    values = jnp.array([[[1.0, 2.0], [4.0, jnp.nan]]])
    got = routing.sum_by_expert(values)
    np.testing.assert_array_equal(got, [[[0, 0, 5], [2, 0, 0]]])
    gradient = jax.grad(lambda v: jnp.sum(3 * routing.sum_by_expert(v)))(values)
    np.testing.assert_array_equal(gradient, [[[3, 3], [3, 0]]])


@functools.partial(jax.jit, static_argnames=('scope', 'num_sequences'))
def run(routing, kept, scope='global', num_sequences=None):
    summary = summarize(routing, num_sequences=num_sequences)
    losses = {'load_balance': functools.partial(load_balance, scope=scope)}
    return auxiliary(summary, kept, extra_losses=losses)


@pytest.mark.parametrize('scope', ['global', 'group'])
@pytest.mark.parametrize('kind', ['choice', 'counted', 'chance', 'token'])
def test_equals_the_loop(kind, scope):
    for seed in range(3):
        routing = route(seed, token=kind == 'token')
        rng = np.random.default_rng(seed)
        kept = routing.valid & (rng.random(routing.valid.shape) < 0.8)
        ones = np.ones(routing.weight.shape)
        chosen = spread(routing, ones)
        counted, gates = chosen, spread(routing, routing.weight)
        chance = gates > 0
        if kind == 'counted':  # first choices
            first = routing.valid & (np.arange(2) == 0)[:, None]
            routing = routing.replace(balance_mask=first)
            counted = spread(routing, ones, first)
        if kind == 'chance':
            chance = rng.random((G, S, E)).astype(np.float32)
            routing = routing.replace(selection_probability=chance)
        aux = run(routing, kept, scope)
        probs, mask = np.float64(routing.probs), routing.mask
        logits = np.float64(routing.logits)
        losses = {
            'load_balance': reference.load_balance(
                probs, counted.sum(1), mask, scope
            ),
            'sequence_balance': reference_losses.sequence_balance(
                probs, counted, mask
            ),
            'router_z': reference.router_z(logits, mask),
            'importance': reference_losses.importance(gates, mask),
            'load': reference_losses.load(np.float64(chance), mask),
            'l1': reference_losses.l1(gates, mask),
        }
        assert_close(dict(aux.losses), losses, 2e-6)
        stats = reference.statistics(probs, chosen.sum(1), kept, mask)
        stats['logit_rms'] = reference.logit_rms(logits, mask)
        assert_close(dict(aux.stats), stats, 2e-6)
        for value in (*aux.losses.values(), *aux.stats.values()):
            assert value.dtype == jnp.float32


@pytest.mark.parametrize('num_sequences', [1, 2, 3, 4])
def test_sequences_are_not_groups(num_sequences):
    # The 12 tokens as sequences of 12, 6, 4 and 3, whatever the groups.
    routing = route(5)
    aux = run(routing, routing.valid, num_sequences=num_sequences)
    shape = (num_sequences, -1, E)
    chosen = spread(routing, np.ones(routing.weight.shape)).reshape(shape)
    desired = reference_losses.sequence_balance(
        np.float64(routing.probs).reshape(shape),
        chosen,
        routing.mask.reshape(num_sequences, -1),
    )
    loss = aux.losses['sequence_balance']
    np.testing.assert_allclose(loss, desired, rtol=2e-6)
    if num_sequences == 1:
        np.testing.assert_allclose(loss, aux.losses['load_balance'], rtol=2e-6)


@pytest.mark.parametrize('k', [1, 2])
def test_perfect_balance(k):
    # Token s goes to experts s and s + 1 with equal gates: every sum over
    # tokens is the same for all experts.
    expert = (np.arange(S)[None] + np.arange(k)[:, None]) % S
    shape = (1, S, S)
    routing = grids.make(
        expert=np.int32(expert[None]),
        weight=np.full((1, k, S), 0.5, np.float32),
        valid=np.ones((1, k, S), bool),
        probs=np.full(shape, 1 / S, np.float32),
        logits=np.zeros(shape, np.float32),
        mask=np.ones((1, S), bool),
    )
    losses = dict(run(routing, routing.valid).losses)
    desired = {
        'load_balance': 1.0,
        'sequence_balance': 1.0,
        'router_z': np.log(S) ** 2,
        'importance': 0.0,
        'load': 0.0,
        'l1': 0.5 * k,
    }
    assert_close(losses, desired, 1e-6, scale=1.0)


def test_nothing_live_is_finite():
    nothing = np.zeros((G, S), bool)
    routing = route(0, live=0.0, mask=nothing)

    def total(weight, probs, logits):
        changed = routing.replace(weight=weight, probs=probs, logits=logits)
        return sum(run(changed, routing.valid).losses.values())

    args = (routing.weight, routing.probs, routing.logits)
    value, gradients = jax.jit(jax.value_and_grad(total, (0, 1, 2)))(*args)
    assert value == 0
    for gradient in gradients:
        assert not np.any(gradient)


def test_losses_of_a_name_are_replaced_and_others_come_beside():
    # As a plugin's loss and its options do.
    routing = route(0)
    summary = summarize(routing, state={'penalty': 0.25})
    plain = auxiliary(summary, routing.valid)
    first = lambda s: jnp.sum(s.assignments[..., 0])
    extra = {'first': first, 'l1': lambda s: jnp.float32(7)}
    aux = auxiliary(summary, routing.valid, extra_losses=extra)
    assert set(aux.losses) == {*LOSSES, 'first'}
    assert aux.losses['first'] == np.sum(routing.valid & (routing.expert == 0))
    assert aux.losses['l1'] == 7
    # The router's own coefficient of L1 is in its state.
    gates = spread(routing, routing.weight)
    desired = 0.25 * reference_losses.l1(gates, routing.mask)
    np.testing.assert_allclose(plain.losses['l1'], desired, rtol=1e-6)


def test_the_built_in_losses_are_registered():
    assert set(LOSSES) <= set(AUXILIARY_LOSSES)
    for name, loss in LOSSES.items():
        assert AUXILIARY_LOSSES[name] is loss


@pytest.mark.parametrize('name', ['top_k', 'relu', 'hash', 'noisy_top_k'])
def test_losses_with_effect_are_those_on_the_page(name):
    # Which is measured by other means, inside the layer.
    (line,) = re.findall(rf'^\| `{name}` \|.*$', table.written(), re.M)
    written = re.findall(r'`(\w+)`', line.split('|')[4])
    assert losses_with_effect(ROUTERS[name], 8) == set(written)


def test_losses_with_effect_depend_on_the_options():
    free = functools.partial(ROUTERS['top_k'], renormalize=False)
    assert 'l1' in losses_with_effect(free, 4)
    assert 'l1' not in losses_with_effect(ROUTERS['top_k'], 4)
    nothing = {'zero': lambda summary: 0.0 * jnp.sum(summary.gates)}
    assert losses_with_effect(free, 4, nothing) == set()
    # It cannot be tried without a layer.
    assert losses_with_effect(ROUTERS['soft'], 4) == set(LOSSES)

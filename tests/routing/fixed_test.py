"""Routers that learn nothing: hash, random and round_robin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.routing import (
    hash_router,
    random,
    round_robin,
)
from tests.routing.common import (
    KEY,
    E,
    G,
    S,
    accounted,
    context,
    draw,
    run,
)

ZEROS = np.zeros((G, S, E), np.float32)


def ids(seed, vocab_size, shape=(G, S)):
    rng = np.random.default_rng(seed)
    return rng.integers(0, vocab_size, shape, np.int32)


def test_hash_is_a_balanced_table_of_the_id_alone():
    # 64 ids, each once, over 5 experts: 12 or 13 each.
    tokens = np.arange(64, dtype=np.int32).reshape(2, 32)
    ctx = context(shape=(2, 32), token_id=tokens)
    logits = np.zeros((2, 32, E), np.float32)
    chosen = run(hash_router, logits, ctx, vocab_size=64).expert[:, 0]
    assert sorted(np.bincount(chosen.ravel())) == [12, 13, 13, 13, 13]
    moved = ctx._replace(token_id=tokens[::-1, ::-1], train=True, key=KEY)
    again = run(hash_router, logits, moved, vocab_size=64).expert[:, 0]
    np.testing.assert_array_equal(again[::-1, ::-1], chosen)
    other = run(hash_router, logits, ctx, vocab_size=64, seed=1).expert[:, 0]
    assert np.any(other != chosen)


def test_hash_without_ids_is_an_error():
    with pytest.raises(ValueError, match='called without token_ids'):
        hash_router(jnp.zeros((G, S, E)), context())


@pytest.mark.parametrize('k', [1, 2])
def test_uniform_is_balanced(k):
    # 2 * 10 tokens over 5 experts.
    logits = np.zeros((2, 10, E), np.float32)
    aux = accounted(run(round_robin, logits, context(shape=(2, 10)), k=k))
    assert aux.stats['load'].tolist() == [1] * E
    np.testing.assert_allclose(aux.losses['load_balance'], 1, rtol=1e-6)


def test_random_is_anew_in_every_step_of_training():
    logits, ctx = draw(0), context(key=KEY, train=True)
    one = run(random, logits, ctx).expert
    np.testing.assert_array_equal(run(random, logits, ctx).expert, one)
    other = ctx._replace(key=jax.random.key(12))
    assert np.any(run(random, logits, other).expert != one)
    # In evaluation the key makes no difference.
    evaluation = run(random, logits, context()).expert
    keyed = run(random, logits, context(key=KEY)).expert
    np.testing.assert_array_equal(evaluation, keyed)


def test_random_covers_all_experts_evenly():
    # 4096 draws of 5 experts: 819.2 each, standard deviation 25.6.
    logits = np.zeros((2, 2048, E), np.float32)
    ctx = context(shape=(2, 2048), key=KEY, train=True)
    first = run(random, logits, ctx).expert[:, 0]
    counts = np.bincount(first.ravel(), minlength=E)
    np.testing.assert_allclose(counts, 819.2, atol=4 * 25.6)


@pytest.mark.parametrize('router', [hash_router, round_robin])
def test_a_collapsed_table_is_reported(router):
    # All tokens are the same id, or stand at the same position.
    ctx = context(token_id=np.zeros((G, S), np.int32))
    ctx = ctx._replace(position=jnp.zeros((G, S), jnp.int32))
    aux = accounted(run(router, ZEROS, ctx, k=1))
    np.testing.assert_allclose(aux.losses['load_balance'], E, rtol=1e-6)


@pytest.mark.parametrize('router', [hash_router, random, round_robin])
def test_no_gradient_and_no_trace_of_the_logits(router):
    ctx = context(key=KEY, train=True, token_id=ids(0, 256))

    def objective(logits):
        routing = router(logits, ctx, k=2)
        values = (routing.weight, routing.probs, routing.logits)
        return sum(jnp.sum(v**2) for v in values)

    assert not np.any(jax.jit(jax.grad(objective))(draw(0)))
    one = run(router, draw(0), ctx, k=2)
    two = run(router, draw(1), ctx, k=2)
    jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize('router', [hash_router, random, round_robin])
def test_more_choices_than_experts(router):
    ctx = context(token_id=jnp.zeros((G, S), jnp.int32))
    with pytest.raises(ValueError, match='k = 6 of 5 experts'):
        router(jnp.zeros((G, S, E)), ctx, k=6)

"""Sinkhorn routing: balance, padding, and the plan over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from moe.routing import sinkhorn
from tests.routing.common import (
    SEEDS,
    E,
    G,
    S,
    context,
    draw,
    gradient,
    run,
)


def skewed(seed, tokens=64, num_experts=4):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(1, tokens, num_experts))
    return np.float32(logits + np.array([3, 1, 0, -2]))


def greatest_load(routing, mask):
    chosen = routing.expert[:, 0][mask]
    return np.bincount(chosen, minlength=4).max() * 4 / len(chosen)


def test_balances_a_skewed_router():
    # Top-1 sends most tokens to expert 0, a load near 4; the plan is balanced,
    # and choosing its greatest entries nearly so.
    for seed in SEEDS:
        logits, mask = skewed(seed), np.ones((1, 64), bool)
        ctx = context(shape=(1, 64))
        top = run(sinkhorn, logits, ctx)
        balanced = run(sinkhorn, logits, ctx._replace(train=True))
        assert greatest_load(top, mask) > 3
        assert greatest_load(balanced, mask) < 1.6


def test_padding_does_not_weigh_in_the_plan():
    # Half of the tokens are padding, of any content.
    logits, mask = skewed(0), np.arange(64)[None] % 2 == 0
    ctx = context(shape=(1, 64), train=True)._replace(mask=jnp.asarray(mask))
    one = run(sinkhorn, logits, ctx)
    other = np.where(mask[..., None], logits, np.float32([-50, 50, 0, 20]))
    two = run(sinkhorn, other, ctx)
    np.testing.assert_array_equal(
        one.expert[:, 0][mask], two.expert[:, 0][mask]
    )
    np.testing.assert_array_equal(
        one.weight[:, 0][mask], two.weight[:, 0][mask]
    )
    assert greatest_load(one, mask) < 1.8


def test_all_padding_is_finite():
    ctx = context(np.zeros((G, S), bool), train=True)
    routing = run(sinkhorn, draw(0), ctx)
    assert not routing.valid.any()
    assert np.all(np.isfinite(routing.weight))
    assert np.all(np.isfinite(gradient(sinkhorn, draw(0), ctx)))


def test_large_logits_do_not_overflow():
    ctx = context(train=True)
    routing = run(sinkhorn, 200 * draw(0), ctx)
    assert np.all(np.isfinite(routing.weight))
    assert np.all((routing.expert >= 0) & (routing.expert < E))


@pytest.mark.parametrize('train', [True, False])
def test_one_expert_a_token_trains_the_router(train):
    got = gradient(sinkhorn, draw(0), context(train=train), k=1)
    assert np.all(np.isfinite(got))
    assert np.all(np.any(np.abs(got) > 1e-3, axis=-1))


def test_ties_go_to_the_lowest_index():
    routing = run(sinkhorn, np.zeros((G, S, E), np.float32), context(), k=2)
    assert np.all(routing.expert == np.array([0, 1])[:, None])


def test_the_plan_is_of_the_whole_batch_over_devices():
    logits = np.stack([draw(seed)[0] for seed in range(8)])
    mask = np.arange(S) < S - np.arange(8)[:, None] % 4
    position = np.arange(8 * S, dtype=np.int32).reshape(8, S)
    ctx = context(train=True)._replace(mask=mask, position=position)

    def chosen(logits, mask, position, axis_name=None):
        part = ctx._replace(mask=mask, position=position, axis_name=axis_name)
        return sinkhorn(logits, part).expert

    mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
    split = PartitionSpec('data')
    over = jax.shard_map(
        lambda *args: chosen(*args, axis_name='data'),
        mesh=mesh,
        in_specs=(split,) * 3,
        out_specs=split,
    )
    here = np.asarray(jax.jit(chosen)(logits, mask, position))[:, 0]
    there = np.asarray(jax.jit(over)(logits, mask, position))[:, 0]
    np.testing.assert_array_equal(here[mask], there[mask])


def test_more_choices_than_experts():
    with pytest.raises(ValueError, match='k = 6 of 5 experts'):
        sinkhorn(jnp.zeros((G, S, E)), context(), k=6)

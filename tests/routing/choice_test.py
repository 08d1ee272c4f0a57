"""What routers share: selection, normalisation, and the Routing."""

import jax.numpy as jnp
import numpy as np
import pytest

from moe.routing.choice import normalized, select, token_choice
from tests.reference import routing as reference
from tests.routing.common import PADDED, E, G, S, context, draw


def test_select_equals_the_loop():
    scores = draw(0)
    scores[0, 0] = [1, 3, 1, 3, 0]  # ties, to the lowest index
    values, expert = select(jnp.asarray(scores), 3)
    for g, s in np.ndindex(G, S):
        desired = reference.largest(scores[g, s], 3)
        assert expert[g, s].tolist() == desired
        np.testing.assert_array_equal(values[g, s], scores[g, s, desired])
    assert expert[0, 0].tolist() == [1, 3, 0]


def test_select_more_than_there_are():
    with pytest.raises(ValueError, match='k = 6 of 5 experts'):
        select(jnp.zeros((1, 1, 5)), 6)


def test_normalized():
    gates = jnp.array([[[0.2, 0.6], [0.0, 0.0], [1e-30, 3e-30]]])
    desired = [[[0.25, 0.75], [0, 0], [0.25, 0.75]]]
    np.testing.assert_allclose(normalized(gates), desired, rtol=1e-6)
    single = gates[..., :1]
    np.testing.assert_array_equal(normalized(single), single)


def test_token_choice():
    expert = jnp.asarray(np.argsort(-draw(0), axis=-1)[..., :2])
    gates = jnp.asarray(draw(1)[..., :2], jnp.bfloat16)
    probs, logits = jnp.asarray(draw(2)), jnp.asarray(draw(3))
    alive = np.random.default_rng(0).random((G, S, 2)) > 0.5
    ctx = context(PADDED)
    for live in (None, jnp.asarray(alive)):
        routing = token_choice(expert, gates, probs, logits, ctx, valid=live)
        for k in range(2):
            np.testing.assert_array_equal(routing.expert[:, k], expert[..., k])
            np.testing.assert_array_equal(routing.weight[:, k], gates[..., k])
            exists = PADDED if live is None else PADDED & alive[..., k]
            np.testing.assert_array_equal(routing.valid[:, k], exists)
        assert routing.probs is probs
        assert routing.logits is logits
        assert routing.weight.dtype == jnp.float32
        assert routing.expert.dtype == jnp.int32
        assert routing.num_experts == E

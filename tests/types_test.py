"""The data that flows: Routings of three kinds, a Context, an Aux."""

import jax
import numpy as np
import pytest

from moe.types import (
    Aux,
    Context,
    Dense,
    ExpertChoice,
    TokenChoice,
)

G, S, E, K, C = 2, 3, 5, 2, 2
ROWS = {TokenChoice: (K, S), ExpertChoice: (E, C), Dense: (E, S)}
EXTRA = {
    TokenChoice: {'expert': (E, (K, S))},
    ExpertChoice: {'token': (S, (E, C))},
    Dense: {},
}


def routing(kind=TokenChoice, **changes):
    """Two groups of three tokens and five experts, random."""
    draw = np.random.default_rng(0)
    grid = (G, *ROWS[kind])
    fields = {
        'weight': draw.random(grid, np.float32),
        'valid': draw.random(grid) < 0.7,
        'probs': np.full((G, S, E), 1 / E, np.float32),
        'logits': np.zeros((G, S, E), np.float32),
        'mask': np.ones((G, S), bool),
    }
    for name, (count, _) in EXTRA[kind].items():
        fields[name] = draw.integers(0, count, grid, np.int32)
    return kind(**{**fields, **changes})


@pytest.mark.parametrize('kind', ROWS)
def test_who_goes_where(kind):
    given = routing(kind)
    assert given.num_experts == E
    expert, token = given.assignment_expert(), given.assignment_token()
    assert expert.shape == token.shape == given.weight.shape
    assert expert.dtype == token.dtype == np.int32
    gates, count = np.zeros((G, S, E)), np.zeros((G, S, E))
    for g, n, m in np.argwhere(given.valid):
        e = given.expert[g, n, m] if kind is TokenChoice else n
        s = given.token[g, n, m] if kind is ExpertChoice else m
        assert (expert[g, n, m], token[g, n, m]) == (e, s)
        gates[g, s, e] += given.weight[g, n, m]
        count[g, s, e] += 1
    np.testing.assert_allclose(given.gates(), gates, rtol=1e-6)
    np.testing.assert_array_equal(given.assignments(), count)
    assert given.columns_are_tokens == (kind is not ExpertChoice)
    assert given.max_per_expert() == (C if kind is ExpertChoice else S)
    first = np.asarray(given.is_first_choice())
    assert first[:, 0].all()
    assert first[:, 1:].all() == (kind is not TokenChoice)


@pytest.mark.parametrize('kind', ROWS)
def test_routing_goes_through_transformations(kind):
    # Absent fields stay absent, the others are arrays with a batch axis.
    given = routing(kind, priority=np.ones((G, S), np.float32))
    out = jax.jit(lambda r: r.replace(weight=r.weight + 1))(given)
    assert type(out) is kind
    assert out.balance_mask is None
    np.testing.assert_array_equal(out.weight, given.weight + 1)
    np.testing.assert_array_equal(out.priority, given.priority)
    stacked = jax.tree.map(lambda x: np.stack([x, x]), given)
    assert stacked.num_experts == E
    assert stacked.mask.shape == (2, G, S)
    gates = jax.vmap(lambda r: r.gates())(stacked)
    np.testing.assert_array_equal(gates[1], given.gates())
    _, scanned = jax.lax.scan(lambda c, _: (c, given), 0, length=3)
    assert scanned.weight.shape == (3, *given.weight.shape)
    paths = jax.tree_util.tree_leaves_with_path(given)
    assert jax.tree_util.keystr(paths[0][0]) == '.weight'


def test_nothing_is_random_and_nothing_trains_by_default():
    context = Context(np.ones((1, 2), bool), np.arange(2)[None])
    assert context.key is None
    assert context.train is False
    assert Aux({}, {}).routing is None

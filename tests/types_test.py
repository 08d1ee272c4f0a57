"""The data that flows: plain tuples of arrays."""

import jax
import numpy as np

from moe.types import Aux, Context, Routing


def routing(**changes):
    """Two groups of three tokens, two choices of five experts."""
    grid, live = np.zeros((2, 2, 3)), np.ones((2, 2, 3), bool)
    fields = {
        'expert': np.int32(grid),
        'weight': np.float32(grid),
        'live': live,
        'probs': np.full((2, 3, 5), 0.2, np.float32),
        'logits': np.zeros((2, 3, 5), np.float32),
        'mask': np.ones((2, 3), bool),
    }
    return Routing(**{**fields, **changes})


def test_number_of_experts():
    assert routing().num_experts == 5


def test_token_choice_in_token_order_is_the_default():
    assert routing().token is None
    assert routing().priority is None


def test_routing_goes_through_transformations():
    # Absent fields stay absent, the others are arrays with a batch axis.
    given = routing(priority=np.ones((2, 3), np.float32))
    out = jax.jit(lambda r: r._replace(weight=r.weight + 1))(given)
    assert out.token is None
    np.testing.assert_array_equal(out.weight, given.weight + 1)
    np.testing.assert_array_equal(out.priority, given.priority)
    stacked = jax.tree.map(lambda x: np.stack([x, x]), given)
    assert stacked.num_experts == 5
    assert stacked.mask.shape == (2, 2, 3)


def test_nothing_is_random_and_nothing_trains_by_default():
    context = Context(np.ones((1, 2), bool), np.arange(2)[None])
    assert context.key is None
    assert context.train is False
    assert Aux({}, {}).routing is None

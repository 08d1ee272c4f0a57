"""Routing of a stack of mixtures as one entry a layer, by hand."""

import numpy as np
import pytest

from moe.types import TokenChoice
from moe.workloads.trained import as_gates, by_layer

pytestmark = pytest.mark.slow

# Two layers of two tokens and three experts; a token's second choice in the
# second layer does not exist.
PROBS = np.full((2, 1, 2, 3), 1 / 3, np.float32)
BY_TOKEN = TokenChoice(
    expert=np.array([[[[0, 2], [1, 0]]], [[[2, 2], [0, 1]]]], np.int32),
    weight=np.float32([[[[0.75, 0.5], [0.25, 0.5]]], [[[1, 1], [0, 9]]]]),
    valid=np.array([[[[1, 1], [1, 1]]], [[[1, 1], [1, 0]]]], bool),
    probs=PROBS,
    logits=np.log(PROBS),
    mask=np.ones((2, 1, 2), bool),
)
WEIGHTS = [
    [[[0.75, 0.25, 0.0], [0.5, 0.0, 0.5]]],
    [[[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]],
]
CHOSEN = [[[[1, 1, 0], [1, 0, 1]]], [[[1, 0, 1], [0, 0, 1]]]]


def test_token_choice():
    # A chosen expert may have the weight 0.
    found = by_layer(BY_TOKEN, [1, 3], (1, 2))
    assert [layer.place for layer in found] == ['layer_1', 'layer_3']
    for layer, weight, chosen in zip(found, WEIGHTS, CHOSEN, strict=True):
        np.testing.assert_allclose(layer.weight, weight)
        np.testing.assert_array_equal(layer.chosen, chosen)
        assert layer.routing.expert.shape == (1, 2, 2)


def test_tokens_have_the_shape_of_the_inputs():
    # Two sequences of one token in one group.
    (first, _) = by_layer(BY_TOKEN, [0, 1], (2, 1))
    np.testing.assert_allclose(first.weight[1, 0], WEIGHTS[0][0][1])


def test_two_levels_show_the_outer_one():
    found = by_layer((BY_TOKEN, None), [0, 1], (1, 2))
    for layer, weight in zip(found, WEIGHTS, strict=True):
        np.testing.assert_allclose(layer.weight, weight)


def test_without_assignments():
    assert by_layer(None, [0, 1], (1, 2)) == []


def test_gates():
    weight = np.float32([[0.5, 0.5], [0.0, 1.0]])
    (gate,) = as_gates({'income': weight})
    assert gate.place == 'income'
    assert gate.chosen.tolist() == [[True, True], [False, True]]
    assert gate.weight is weight

"""Inputs of a mixture layer whose routing is known beforehand.

G = 2 groups of S = 6 tokens, D = 4, F = 3. The first feature of every token
is 1, so that the router's first row shifts an expert's logits for all tokens.
"""

from typing import NamedTuple

import numpy as np

from tests.reference.experts import is_gated

GROUPS, SIZE, WIDTH, HIDDEN = 2, 6, 4, 3

# name -> expert 0's shift, expert 1's shift, tokens that are padding [G][S].
#   even: nothing special.
#   empty: no token wants expert 0; some tokens of both groups are padding.
#   overfull: all tokens want expert 1 first; group 1 is all padding.
#   nothing: every token is padding.
SCENARIOS = {
    'even': (0.0, 0.0, ((), ())),
    'empty': (-8.0, 0.0, ((1, 5), (0, 2, 3))),
    'overfull': (0.0, 5.0, ((), range(SIZE))),
    'nothing': (0.0, 0.0, (range(SIZE), range(SIZE))),
}


class Problem(NamedTuple):
    """Float32 numbers throughout, so that both sides see the same ones."""

    x: np.ndarray
    mask: np.ndarray
    router: np.ndarray
    experts: dict
    dy: np.ndarray


def expert_shapes(num_experts, activation, use_bias):
    """Parameter shapes of the stacked experts."""
    shapes = {}
    for name in ['up', 'gate'] if is_gated(activation) else ['up']:
        shapes[name] = (num_experts, WIDTH, HIDDEN)
    shapes['down'] = (num_experts, HIDDEN, WIDTH)
    for name, shape in list(shapes.items()):
        if use_bias:
            shapes[f'{name}_bias'] = (shape[0], shape[2])
    return shapes


def problem(
    scenario='even',
    seed=0,
    num_experts=5,
    activation='swiglu',
    use_bias=False,
    dtype=np.float32,
):
    """Draws a problem; `dtype` is what the numbers are rounded to.

    Draws again while two logits of a token are close, so that no rounding can
    change a choice. The router's kernel is never rounded.
    """
    shift_0, shift_1, padding = SCENARIOS[scenario]
    rng = np.random.default_rng(seed)

    def draw(shape, scale=1.0):
        numbers = scale * rng.standard_normal(shape)
        return numbers.astype(dtype).astype(np.float32)

    mask = np.ones((GROUPS, SIZE), bool)
    for g in range(GROUPS):
        mask[g, list(padding[g])] = False
    while True:
        x = draw((GROUPS, SIZE, WIDTH))
        x[..., 0] = 1.0
        router = rng.standard_normal((WIDTH, num_experts)).astype(np.float32)
        router *= np.float32(0.6)
        router[0, 0] += shift_0
        router[0, min(1, num_experts - 1)] += shift_1
        logits = np.sort(x.astype(np.float64) @ router, axis=-1)
        if np.all(np.diff(logits, axis=-1) > 1e-2):
            break
    shapes = expert_shapes(num_experts, activation, use_bias)
    experts = {name: draw(shape, 0.7) for name, shape in shapes.items()}
    return Problem(x, mask, router, experts, draw(x.shape))


def float64(tree):
    """The same problem in float64, for the oracle."""
    x, mask, router, experts, dy = tree
    experts = {name: v.astype(np.float64) for name, v in experts.items()}
    wide = [np.float64(v) for v in (x, router, dy)]
    return Problem(wide[0], mask, wide[1], experts, wide[2])

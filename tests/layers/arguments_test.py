"""Natural mistakes in calls of the layers: they work, or one line says why."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.config import ConfigError
from moe.dispatch import SparseDispatcher
from moe.experts import MLP
from moe.layers import HardSwitch, MoE, hierarchical_top2_moe
from moe.routing import sigmoid, soft
from moe.types import Context

KEY = jax.random.key(0)
ROWS, TOKENS = np.ones((4, 8), np.float32), np.ones((2, 4, 8), np.float32)
EXPERTS = MLP(4, num_experts=2)
GATES = np.float32([[0.5, 0.5, 0], [0, 1, 0]])


def call(module, *args, **given):
    """One call, without computing anything."""
    run = lambda: module.init_with_output(KEY, *args, **given)[0]
    return jax.eval_shape(run)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (
            lambda: call(MoE(EXPERTS, router='sigmoi'), TOKENS),
            "router = 'sigmoi': must be one of expert_choice, ",
        ),
        (
            lambda: call(MoE(EXPERTS, router=soft), TOKENS),
            "router = 'soft': must be a router of assignments (SoftMoE is the "
            'layer of soft)',
        ),
        (
            lambda: call(MoE(EXPERTS, dispatcher='sorted'), TOKENS),
            "dispatcher = 'sorted': must be one of grouped, indexed, onehot",
        ),
        (
            lambda: call(MoE(MLP(4)), TOKENS),
            "experts = 'MLP': must be all experts in one module: "
            'MLP(num_experts=E), Lifted(module, E) or alike',
        ),
        (
            lambda: call(MoE(nn.Dense(8)), TOKENS),
            "experts = 'Dense': must be all experts in one module: ",
        ),
        (
            lambda: call(MoE(EXPERTS), np.ones(8, np.float32)),
            'MoE: shape of x = (8,): must be [..., S, D]',
        ),
        (
            lambda: call(MoE(EXPERTS), TOKENS, mask=np.ones(4, bool)),
            'MoE: shape of mask = (4,): must be (2, 4), one for each token',
        ),
        (
            lambda: call(EXPERTS, ROWS),
            'MLP: shape of x = (4, 8): must be [2, N, D], or [A, D] with sizes',
        ),
        (
            lambda: call(MLP(4, activation='tanh'), ROWS),
            "activation = 'tanh': must be one of clamped_swiglu, geglu, gelu, "
            'relu, relu_squared, silu, swiglu, or a function',
        ),
        (
            lambda: call(HardSwitch((nn.Dense(8),) * 2), TOKENS),
            'HardSwitch: shape of x = (2, 4, 8): must be [B, D], an example a '
            'row; reshape tokens to rows first',
        ),
        (
            lambda: call(HardSwitch(()), ROWS),
            'HardSwitch: experts = 0: must be at least one',
        ),
        (
            lambda: call(HardSwitch((nn.Dense(8),), gradient='ste'), ROWS),
            "HardSwitch: gradient = 'ste': must be one of none, "
            'straight_through, probability',
        ),
        (
            lambda: hierarchical_top2_moe(8, 4),
            'num_experts = 4: must be a pair (groups, experts of a group)',
        ),
        (
            lambda: SparseDispatcher(TOKENS),
            'SparseDispatcher: shape of gates = (2, 4, 8): must be [B, E], an '
            'example a row',
        ),
        (
            lambda: SparseDispatcher(GATES).dispatch(ROWS),
            'dispatch: shape of x = (4, 8): must be [2, D], an example for '
            'each row of gates',
        ),
        (
            lambda: SparseDispatcher(GATES).split(ROWS),
            'split: number of rows = 4: must be 6, the rows of dispatch',
        ),
        (
            lambda: SparseDispatcher(GATES).combine(ROWS),
            'combine: outputs = (4, 8): must be [6, F], the rows of dispatch, '
            'or 3 rows without the empty ones, or a list of [1, 2, 0] rows',
        ),
    ],
    ids=range(17),
)
def test_one_line(make, message):
    with pytest.raises(ConfigError) as error:
        make()
    assert str(error.value).startswith(message)
    assert '\n' not in str(error.value)


def test_what_works():
    y, aux = call(MoE(EXPERTS, router='sigmoid'), TOKENS, mask=np.ones((2, 4)))
    assert y.shape == TOKENS.shape
    assert 'load' in aux.stats
    assert call(MLP(4, activation=nn.relu), ROWS).shape == ROWS.shape
    dispatcher = SparseDispatcher(GATES.tolist())
    rows = dispatcher.dispatch(ROWS[:2])
    for outputs in (rows, rows[:3], dispatcher.split(rows)):
        # The gates of an example sum to 1.
        np.testing.assert_allclose(dispatcher.combine(outputs), ROWS[:2])
    # A sigmoid router by itself has no bias.
    context = Context(jnp.ones((1, 1), bool), jnp.zeros((1, 1), jnp.int32))
    routing = sigmoid(jnp.array([[[-1.0, 2.0, 1.0]]]), context)
    assert routing.expert.ravel().tolist() == [1, 2]

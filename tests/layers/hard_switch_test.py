"""Hard switches against loops, by hand, and by the rows that really ran."""

import collections
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.config import ConfigError
from moe.layers import HardSwitch, by_expert, chosen
from tests import tiny
from tests.experts.heterogeneous_test import Add, D, Probe, Times
from tests.reference import switch as reference
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow


class Same(nn.Module):
    """Without parameters."""

    def __call__(self, x):
        return x


class Column(nn.Module):
    """A gate that reads its logits from the example."""

    count: int
    sign: int = 1

    def __call__(self, x):
        return self.sign * x[:, : self.count]


def test_two_experts_by_hand():
    # Logits x0 - 1: sigmoid is below, at and above 1/2, so x + 10 for the
    # first two examples and x * 10 for the last.
    params = {
        'gate': {'kernel': np.float32([[1], [0], [0]]), 'bias': -np.ones(1)},
        'experts_0': {'w': np.full(D, 10, np.float32)},
        'experts_1': {'w': np.full(D, 10, np.float32)},
    }
    x = np.float32([[0, 2, 3], [1, 2, 3], [2, 2, 3]])
    layer = HardSwitch((Add(), Times()))
    run = jax.jit(layer.apply, static_argnames='record')
    y, aux = run({'params': params}, x, record=True)
    desired = [[10, 12, 13], [11, 12, 13], [20, 20, 30]]
    np.testing.assert_array_equal(y, desired)
    mask = chosen(aux.routing)
    np.testing.assert_array_equal(mask, [[1, 0], [1, 0], [0, 1]])
    # E * sum_e f_e p_e with the sigmoids of -1, 0 and 1, whose mean is 1/2.
    np.testing.assert_allclose(aux.losses['load_balance'], 1, rtol=1e-6)
    np.testing.assert_allclose(aux.stats['load'], [4 / 3, 2 / 3], rtol=1e-6)
    assert aux.stats['nan_gates'] == 0
    assert run({'params': params}, x)[1].routing is None
    # A loss of the second expert alone reaches only its parameters.
    objective = lambda p: jnp.sum(
        jnp.where(mask[:, 1:], layer.apply({'params': p}, x)[0], 0)
    )
    gradients = jax.jit(jax.grad(objective))(params)
    np.testing.assert_array_equal(gradients['experts_0']['w'], [0, 0, 0])
    np.testing.assert_array_equal(gradients['experts_1']['w'], [2, 2, 3])


def test_the_outputs_of_each_expert_apart():
    # As of two lists of examples and their masks, also in gradients, where
    # the loss of the first expert counts twice.
    x, mask = tiny.numbers((6, D), 3), np.array([1, 1, 0, 1, 1, 1], bool)
    layer = HardSwitch((Add(), Times()), gate=Column(1))
    params = jax.jit(layer.init)(jax.random.key(0), x)['params']
    params = jax.tree.map(lambda w: np.float32(w + 2), params)

    @jax.jit
    def outputs(params):
        y, aux = layer.apply({'params': params}, x, mask=mask, record=True)
        return by_expert(y, aux.routing)

    (output_a, output_b), (mask_a, mask_b) = outputs(params)
    np.testing.assert_array_equal(mask_a, mask & (x[:, 0] <= 0))
    np.testing.assert_array_equal(mask_b, mask & (x[:, 0] > 0))
    assert np.any(mask_a)
    assert np.any(mask_b)
    w_a, w_b = (params[f'experts_{e}']['w'] for e in (0, 1))
    desired = np.where(mask_a[:, None], x + w_a, 0)
    np.testing.assert_allclose(output_a, desired, rtol=1e-6)
    desired = np.where(mask_b[:, None], x * w_b, 0)
    np.testing.assert_allclose(output_b, desired, rtol=1e-6)

    def objective(params):
        (output_a, output_b), _ = outputs(params)
        return 2 * jnp.sum(output_a) + jnp.sum(output_b)

    gradients = jax.grad(objective)(params)
    count = 2.0 * np.sum(mask_a)
    np.testing.assert_allclose(gradients['experts_0']['w'], [count] * D)
    desired = np.sum(x[np.asarray(mask_b)], axis=0)
    np.testing.assert_allclose(
        gradients['experts_1']['w'], desired, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize('shape', [(D,), (2, 5, D), (1, 2, 3, D)])
def test_refuses_what_is_not_an_example_a_row(shape):
    line = r'^HardSwitch: shape of x = \(.*\): must be \[B, D\], an example'
    with pytest.raises(ConfigError, match=line):
        HardSwitch((Add(), Times())).init(jax.random.key(0), jnp.ones(shape))


def test_first_parameters():
    x = jnp.ones((2, D))
    first = lambda layer: jax.jit(layer.init)(jax.random.key(0), x)['params']
    two = first(HardSwitch((Add(), Times())))
    assert two['gate']['kernel'].shape == (D, 1)
    modules = (nn.Dense(D), Same(), Times(), nn.Dense(D))
    four = first(HardSwitch(modules))
    assert sorted(four) == ['experts_0', 'experts_2', 'experts_3', 'gate']
    assert four['gate']['kernel'].shape == (D, 4)
    kernels = [four[f'experts_{e}']['kernel'] for e in (0, 3)]
    assert not np.allclose(*kernels)


B = 11
X, DY = tiny.numbers((B, D), 0), tiny.numbers((B, D), 1)
MASK = np.array([1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 1], bool)
# Modules, their oracles, and the logits of the gate.
SWITCHES = {
    'two': ((Add(), Times()), (reference.add, reference.times), 1),
    'three': (
        (Times(), nn.Dense(D, use_bias=False), Add()),
        (reference.times, reference.dense, reference.add),
        3,
    ),
}


@pytest.mark.parametrize(
    ('gradient', 'block_size'),
    [('none', 1), ('straight_through', 64), ('probability', 3)],
)
@pytest.mark.parametrize('name', SWITCHES)
def test_equals_the_loop(name, gradient, block_size):
    modules, oracles, num_logits = SWITCHES[name]
    layer = HardSwitch(modules, gradient=gradient, block_size=block_size)
    params = tiny.parameters(layer.init, X, scale=1.0)

    def objective(params, x):
        y, aux = layer.apply({'params': params}, x, mask=MASK, record=True)
        return jnp.sum(y * DY), (y, aux)

    run = jax.jit(jax.grad(objective, argnums=(0, 1), has_aux=True))
    x = np.where(MASK[:, None], X, np.float32(np.nan))
    (d_params, d_x), (y, aux) = jax.device_get(run(params, x))
    wide = jax.tree.map(np.float64, params)
    weights = [
        next(iter(wide[f'experts_{e}'].values())) for e in range(len(oracles))
    ]
    gate = wide['gate']
    assert gate['bias'].shape == (num_logits,)
    desired, choices, gradients = reference.switch(
        np.float64(X),
        MASK,
        gate['kernel'],
        gate['bias'],
        [make(w) for make, w in zip(oracles, weights, strict=True)],
        gradient,
        np.float64(DY),
    )
    # Every expert has rows, and not the same number.
    counts = collections.Counter(choices)
    assert len(counts) == len(oracles) + 1
    assert_close(y, desired, 1e-6)
    mask = chosen(aux.routing)
    for e in range(len(oracles)):
        np.testing.assert_array_equal(mask[:, e], np.array(choices) == e)
    desired_x, d_kernel, d_bias, d_weights = gradients
    assert_close(d_x, desired_x, 2e-6)
    assert_close(d_params['gate'], {'kernel': d_kernel, 'bias': d_bias}, 2e-6)
    for e, d in enumerate(d_weights):
        (got,) = d_params[f'experts_{e}'].values()
        assert_close(got, d, 2e-6)


def routed(num_experts, x, mask=None):
    """Outputs and the Aux where the logits are the first columns of x."""
    layer = HardSwitch((Same(),) * num_experts, gate=Column(num_experts - 1))
    run = jax.jit(functools.partial(layer.apply, record=True))
    return jax.device_get(run({}, x, mask=mask))


def test_one_logit_is_a_sigmoid_and_ties_go_to_the_first():
    logits = np.float32([-40, -1, -1e-3, 0, 1e-3, 1, 40])
    _, aux = routed(2, logits[:, None])
    desired = [reference.choose_of_two(float(v)) for v in logits]
    assert sorted(set(desired)) == [0, 1]
    np.testing.assert_array_equal(aux.routing.expert[0, 0], desired)
    # Behind a 0.
    x = np.float32([[0, 0], [1, 1], [0, 1], [1, 0], [-1, 0], [-1, -1]])
    _, aux = routed(3, x)
    np.testing.assert_array_equal(aux.routing.expert[0, 0], [0, 1, 2, 1, 0, 0])


def test_lost_gates_are_counted_and_go_to_the_first():
    x = np.float32([[np.nan, 0], [0, np.inf], [-np.inf, 1], [np.nan, 9]])
    y, aux = routed(3, x, np.array([1, 1, 1, 0], bool))
    # Logits NaN, (0, 0, inf), (0, -inf, 1) and padding.
    desired = [[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0]]
    np.testing.assert_array_equal(chosen(aux.routing), desired)
    assert aux.stats['nan_gates'] == 1
    assert np.all(np.isfinite(aux.routing.probs))
    np.testing.assert_array_equal(y[3], [0, 0])
    # A gate that is lost loses every example, of which three are live.
    lost = {'kernel': np.ones((1, 1)), 'bias': np.full(1, np.nan)}
    layer = HardSwitch((Same(), Same()))
    mask = np.array([1, 0, 1, 1], bool)
    y, aux = jax.jit(layer.apply)(
        {'params': {'gate': lost}}, np.ones((4, 1)), mask=mask
    )
    assert aux.stats['nan_gates'] == 3
    np.testing.assert_array_equal(aux.stats['load'], [2, 0])
    np.testing.assert_array_equal(y, mask[:, None])


def rows_run(num_experts, choice, block_size, mask=None, grad=False):
    """Rows that each expert really ran, by asking it."""
    counts = np.zeros(num_experts, int)

    def tell(expert, size):
        assert size == block_size
        counts[expert] += size

    layer = HardSwitch(
        tuple(Probe(functools.partial(tell, e)) for e in range(num_experts)),
        gate=Column(num_experts),
        block_size=block_size,
    )
    x = np.eye(num_experts, dtype=np.float32)[np.array(choice)]
    params = tiny.parameters(layer.init, x)
    function = lambda p: jnp.sum(layer.apply({'params': p}, x, mask=mask)[0])
    run = jax.jit(jax.grad(function) if grad else function)
    jax.block_until_ready(run(params))
    jax.effects_barrier()
    return counts.tolist()


def test_only_the_chosen_expert_runs():
    # 5, 0, 1 and 4 examples in blocks of 4: 2, 0, 1 and 1 of them.
    choice = [0, 3, 0, 0, 2, 3, 0, 3, 0, 3]
    assert rows_run(4, choice, 4) == [8, 0, 4, 4]
    # Blocks of one waste nothing, and padding runs nowhere.
    assert rows_run(4, choice, 1) == [5, 0, 1, 4]
    mask = np.array([1, 0, 1, 1, 0, 1, 0, 0, 0, 0], bool)
    assert rows_run(4, choice, 1, mask) == [3, 0, 0, 1]
    # The gradient runs each block once more.
    assert rows_run(4, choice, 4, grad=True) == [16, 0, 8, 8]


@pytest.mark.parametrize('num_experts', [2, 4, 16])
def test_the_work_does_not_grow_with_the_experts(num_experts):
    # 16 examples, spread evenly: 16 rows whatever E.
    choice = [b % num_experts for b in range(16)]
    assert sum(rows_run(num_experts, choice, 1)) == 16
    # Uneven, every expert may waste a block less one row.
    choice = [b % num_experts for b in range(0, 45, 3)]
    total = sum(rows_run(num_experts, choice, 4))
    assert 15 <= total <= 15 + 3 * num_experts
    assert total == 4 * sum(-(-choice.count(e) // 4) for e in set(choice))


def test_refusals():
    refuse = lambda layer: tiny.parameters(layer.init, np.ones((2, D)))
    with pytest.raises(ValueError, match=r'logits \(2, 2\) of 2 .* 4 experts'):
        refuse(HardSwitch((Add(),) * 4, gate=Column(2)))
    with pytest.raises(ValueError, match='straight-through'):
        refuse(HardSwitch((Same(), Same()), gradient='straight-through'))

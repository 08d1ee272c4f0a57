"""Experts that are not alike, against loops over their own rows."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.dispatch import DISPATCHERS
from moe.experts import HeterogeneousExperts
from moe.layers import MoE
from moe.routing import top_k
from tests import tiny
from tests.reference import switch as reference
from tests.reference.compare import assert_close

D = 3


class Add(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + self.param('w', nn.initializers.normal(), x.shape[1:])


class Times(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x * self.param('w', nn.initializers.normal(), x.shape[1:])


class Log(nn.Module):
    """Only for examples of positive numbers."""

    @nn.compact
    def __call__(self, x):
        return jnp.log(x) * self.param('w', nn.initializers.ones_init(), (1,))


class Probe(nn.Module):
    """Tells how many rows it runs, when it runs."""

    tell: Callable

    @nn.compact
    def __call__(self, x):
        jax.debug.callback(self.tell, x.shape[0])
        return x * self.param('w', nn.initializers.ones_init(), x.shape[1:])


MODULES = (Add(), nn.Dense(D, use_bias=False), Times())


def oracles(params):
    """The same functions of one row and their pullbacks, in float64."""
    made = (reference.add, reference.dense, reference.times)
    return [
        make(np.float64(next(iter(params[f'experts_{e}'].values()))))
        for e, make in enumerate(made)
    ]


# Rows of each expert, seven in all; the last rows may be of none.
@pytest.mark.parametrize('sizes', [(3, 1, 3), (0, 7, 0), (4, 0, 1)], ids=str)
@pytest.mark.parametrize('block_size', [1, 2, 64])
def test_each_runs_its_own_rows(sizes, block_size):
    layer = HeterogeneousExperts(MODULES, block_size)
    assert layer.num_experts == 3
    x, dy = tiny.numbers((7, D), 0), tiny.numbers((7, D), 1)
    params = tiny.parameters(layer.init, x, jnp.array(sizes), scale=1.0)
    live = np.arange(7) < sum(sizes)

    def objective(params, x):
        y = layer.apply({'params': params}, x, jnp.array(sizes))
        return jnp.sum(jnp.where(live[:, None], y * dy, 0)), y

    run = jax.jit(jax.grad(objective, argnums=(0, 1), has_aux=True))
    (d_params, d_x), y = run(params, x)
    assert np.all(np.isfinite(y))
    experts = oracles(params)
    desired, d_rows = np.zeros((7, D)), np.zeros((7, D))
    d_own = [0.0, 0.0, 0.0]
    for row, e in enumerate(np.repeat(range(3), sizes)):
        function, pull = experts[e]
        desired[row] = function(np.float64(x[row]))
        step, d_rows[row] = pull(np.float64(x[row]), np.float64(dy[row]))
        d_own[e] = d_own[e] + step
    assert_close(np.where(live[:, None], y, 0), desired, 1e-6)
    assert_close(d_x, d_rows, 1e-6)
    for e, d in enumerate(d_own):
        (got,) = d_params[f'experts_{e}'].values()
        assert_close(got, np.broadcast_to(d, got.shape), 1e-6)


def test_each_runs_blocks_of_its_own_number():
    # 5, 0, 1 and 4 rows in blocks of 4: 2, 0, 1 and 1 of them.
    counts = [0, 0, 0, 0]

    def tell(expert, size):
        counts[expert] += size

    probes = tuple(Probe(functools.partial(tell, e)) for e in range(4))
    layer, x = HeterogeneousExperts(probes, 4), jnp.ones((10, D))
    sizes = jnp.array([5, 0, 1, 4])
    params = tiny.parameters(layer.init, x, sizes)
    counts[:] = [0, 0, 0, 0]
    jax.block_until_ready(jax.jit(layer.apply)({'params': params}, x, sizes))
    jax.effects_barrier()
    assert counts == [8, 0, 4, 4]


def test_experts_see_no_rows_but_their_own():
    # log is of positive rows only; 0 or another's would be NaN, and in
    # the gradient 0 * inf. Both experts' rows end within a block.
    x = np.float32([[1, 2, 3], [2, 1, 4], [1, 1, 1], [-1, 2, 3], [-4, -5, -6]])
    sizes = jnp.array([3, 2])
    params = {
        'experts_0': {'w': np.ones(1, np.float32)},
        'experts_1': {'w': np.float32([1, 2, 3])},
    }
    layer = HeterogeneousExperts((Log(), Times()), 4)

    def objective(params, x):
        y = layer.apply({'params': params}, x, sizes)
        return jnp.sum(y), y

    run = jax.jit(jax.grad(objective, argnums=(0, 1), has_aux=True))
    (d_params, d_x), y = run(params, x)
    log = np.array([1, 1, 1, 0, 0], bool)[:, None]
    with np.errstate(all='ignore'):
        logs, slopes = np.log(x), 1 / x
    np.testing.assert_allclose(y, np.where(log, logs, x * [1, 2, 3]), 1e-6)
    np.testing.assert_allclose(d_x, np.where(log, slopes, [1, 2, 3]), 1e-6)
    # Sums over rows 0 to 2: log 1*2*3 + log 2*1*4 + log 1*1*1; and
    # over rows 3 and 4.
    d_log, d_times = (d_params[f'experts_{e}']['w'] for e in range(2))
    np.testing.assert_allclose(d_log, [np.log(48)], rtol=1e-6)
    np.testing.assert_array_equal(d_times, [-5, -3, -3])


@pytest.mark.parametrize('executor', DISPATCHERS)
def test_they_serve_any_mixture(executor):
    # Two of three experts a token, in every layout of the rows.
    experts = HeterogeneousExperts(MODULES, 2)
    layer = MoE(experts, functools.partial(top_k, k=2), dispatcher=executor)
    x = tiny.numbers((2, 4, D), 7)
    params = tiny.parameters(layer.init, x, scale=1.0)
    y, _ = jax.jit(layer.apply)({'params': params}, x)
    functions = [function for function, _ in oracles(params['experts'])]
    for place in np.ndindex(2, 4):
        token = np.float64(x[place])
        logits = token @ np.float64(params['router'])
        ids = reference.largest(logits, 2)
        gates = reference.softmax(logits[ids])
        outputs = [functions[e](token) for e in ids]
        assert_close(y[place], gates @ outputs, 2e-6)


def test_experts_of_different_widths():
    layer = HeterogeneousExperts((nn.Dense(1), nn.Dense(2)))
    with pytest.raises(ValueError, match='return different rows'):
        tiny.parameters(layer.init, np.ones((2, D)), np.ones(2, np.int32))

"""A network beside a mixture: its three gates by hand."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.experts import MLP
from moe.layers import MoE, Shared
from moe.routing import top_k
from moe.types import Aux
from tests.reference import experts as reference_experts
from tests.reference import layer as reference_layer
from tests.reference import scenarios
from tests.reference.compare import assert_close
from tests.reference.routers import sigmoid
from tests.reference.routing import softmax

GATES = ['none', 'sigmoid', 'softmax']
KERNEL = np.float32([[0.5, -1.0], [1.0, 0.25], [-0.5, 0.75], [0.25, 2.0]])


class Times(nn.Module):
    """A mixture, or a network, that multiplies."""

    factor: float
    is_mixture: bool = True

    def __call__(self, x, *, mask=None, **options):
        y = self.factor * x
        return (y, Aux(options, {})) if self.is_mixture else y


def weights(gate, x):
    """Of the mixture and of the network, for one token."""
    logits = np.float64(x) @ np.float64(KERNEL)
    if gate == 'sigmoid':
        return 1.0, sigmoid(logits[0])
    return (1.0, 1.0) if gate == 'none' else softmax(logits)


def params_of(gate):
    width = {'none': 0, 'sigmoid': 1, 'softmax': 2}[gate]
    return {'shared_gate': KERNEL[:, :width]} if width else {}


def test_known_weights():
    # 3 x and 5 x; a token whose logits are [log 3, 0]: sigmoid(log 3) = 3/4,
    # softmax is [3/4, 1/4]: 3 + 5, 3 + 15/4, and 9/4 + 5/4.
    kernel = np.float32([[np.log(3), 0], [0, 1]])
    x = jnp.array([[[1.0, 0.0]]])
    for gate, factor in zip(GATES, [8, 6.75, 3.5], strict=True):
        layer = Shared(Times(3.0), Times(5.0, False), gate)
        width = {'none': 0, 'sigmoid': 1, 'softmax': 2}[gate]
        params = {'shared_gate': kernel[:, :width]} if width else {}
        y, aux = layer.apply({'params': params}, x, train=True)
        np.testing.assert_allclose(y, factor * x, rtol=1e-6)
        assert aux.losses == {'train': True}  # the mixture's own


@pytest.mark.parametrize('gate', GATES)
def test_beside_a_mixture_equals_the_loop(gate):
    problem = scenarios.problem('empty')
    layer = Shared(
        MoE(
            MLP(scenarios.HIDDEN, num_experts=5),
            router=functools.partial(top_k, k=2),
        ),
        MLP(7, activation='relu', use_bias=True),
        gate,
    )
    rng = np.random.default_rng(3)
    shapes = {'up': (4, 7), 'up_bias': 7, 'down': (7, 4), 'down_bias': 4}
    network = {n: np.float32(rng.normal(size=s)) for n, s in shapes.items()}
    mixture = {'router': problem.router, 'experts': problem.experts}
    params = {'mixture': mixture, 'shared': network, **params_of(gate)}

    def objective(params, x):
        y, aux = layer.apply({'params': params}, x, mask=problem.mask)
        return jnp.sum(y * problem.dy), (y, aux)

    run = jax.jit(jax.grad(objective, argnums=(0, 1), has_aux=True))
    one = run(params, problem.x)
    gradients, (y, aux) = one
    wide = scenarios.float64(problem)
    options = {
        'k': 2,
        'renormalize': True,
        'slots': None,
        'activation': 'swiglu',
        'scope': 'global',
    }
    mixed = reference_layer.layer(
        wide.x, wide.router, wide.experts, wide.mask, options
    )
    desired = np.zeros(wide.x.shape)
    network = jax.tree.map(np.float64, network)
    for g, s in np.argwhere(problem.mask):
        of_mixture, of_network = weights(gate, wide.x[g, s])
        out = reference_experts.mlp(wide.x[g, s], network, 'relu')
        desired[g, s] = of_mixture * mixed.y[g, s] + of_network * out
    assert_close(y, desired, 5e-6)
    assert_close(dict(aux.losses), mixed.losses, 5e-6)
    assert_close(dict(aux.stats), mixed.stats, 5e-6)
    assert not np.any(y[~problem.mask])
    assert not np.any(gradients[1][~problem.mask])
    for leaf in jax.tree.leaves(gradients[0]):
        assert np.any(leaf)
    # NaN in the padding changes nothing.
    x = np.where(problem.mask[..., None], problem.x, np.float32(np.nan))
    jax.tree.map(np.testing.assert_array_equal, run(params, x), one)


@pytest.mark.parametrize('gate', GATES)
def test_dtype_is_that_of_the_tokens(gate):
    layer = Shared(Times(3.0), Times(5.0, False), gate)
    x = jnp.ones((1, 2, 4), jnp.bfloat16)
    variables = jax.jit(layer.init)(jax.random.key(0), x)
    assert {p.dtype for p in jax.tree.leaves(variables)} <= {
        jnp.dtype('float32')
    }
    assert layer.apply(variables, x)[0].dtype == jnp.bfloat16


def test_several_shared_experts_are_one_wide_network():
    # DeepSeek's two shared experts of width 3, whose outputs are added, are one
    # of width 6: the columns of up and gate and the rows of down side by side.
    rng = np.random.default_rng(0)
    two = {
        'up': rng.standard_normal((2, 4, 3), np.float32),
        'gate': rng.standard_normal((2, 4, 3), np.float32),
        'down': rng.standard_normal((2, 3, 4), np.float32),
    }
    x = rng.standard_normal((5, 4), np.float32)
    side = {name: np.concatenate(w, axis=1) for name, w in two.items()}
    side['down'] = np.concatenate(two['down'], axis=0)
    y = MLP(6).apply({'params': side}, x)
    wide = jax.tree.map(np.float64, two)
    for row, actual in zip(np.float64(x), np.asarray(y), strict=True):
        each = [
            reference_experts.mlp(
                row, reference_experts.expert_of(wide, e), 'swiglu'
            )
            for e in range(2)
        ]
        assert_close(actual, sum(each), 5e-6)

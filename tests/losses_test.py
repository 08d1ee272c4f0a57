"""Auxiliary losses against arithmetic, alone and over devices."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from jax.sharding import AxisType, PartitionSpec

from moe import losses
from moe.routing import top_k
from moe.types import Context
from tests.reference import layer as reference
from tests.reference import losses as reference_losses

pytestmark = pytest.mark.slow

# Section 3's gates of four tokens: first choices 0, 2, 2, 0.
GATES = [[[0.5, 0.4, 0.1], [0.3, 0.3, 0.4], [0.1, 0.2, 0.7], [0.8, 0.2, 0.0]]]
FIRST_CHOICES = [[2.0, 0.0, 2.0]]


def all_live(probs):
    return jnp.ones(probs.shape[:2], bool)


class LoadBalanceTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_first_choices_of_known_gates(self):
        # f = [.5, 0, .5], p = [1.7, 1.1, 1.2]/4 = [.425, .275, .3]:
        # 3 * (.5*.425 + .5*.3) = 1.0875.
        probs = jnp.array(GATES)
        loss = self.variant(losses.load_balance)(
            probs, jnp.array(FIRST_CHOICES), all_live(probs)
        )
        np.testing.assert_allclose(loss, 1.0875, rtol=1e-6)
        assert loss.dtype == jnp.float32

    @parameterized.parameters(1, 2, 3, 4)
    def test_one_at_perfect_balance_for_every_k(self, k):
        # Four tokens whose probabilities are the same four numbers, turned:
        # every expert is each choice once, and has the mean probability 1/4.
        row = np.log([0.55, 0.25, 0.15, 0.05])
        logits = np.float32([[np.roll(row, s) for s in range(4)]])
        context = Context(jnp.ones((1, 4), bool), jnp.arange(4)[None])

        @jax.jit
        def loss(logits):
            routing = top_k(logits, context, k=k)
            chosen = routing.assignments()
            counts = jnp.sum(chosen, axis=1)
            return losses.load_balance(routing.probs, counts, routing.mask)

        np.testing.assert_allclose(loss(logits), 1, rtol=1e-6)

    @parameterized.parameters('group', 'global')
    def test_e_when_collapsed(self, scope):
        # All six tokens on expert 2 of 5, whose probability is 1: 5 * 1 * 1.
        probs = np.zeros((2, 3, 5), np.float32)
        counts = np.zeros((2, 5), np.float32)
        probs[..., 2], counts[:, 2] = 1, 3
        balance = functools.partial(losses.load_balance, scope=scope)
        loss = jax.jit(balance)(probs, counts, all_live(probs))
        np.testing.assert_allclose(loss, 5, rtol=1e-6)


# Two groups, each collapsed onto an expert of its own: 2 inside a group, and
# perfect balance over both. A third group has no live token.
SPLIT = jnp.array([[[1.0, 0.0]] * 3, [[0.0, 1.0]] * 3, [[0.9, 0.1]] * 3])
SPLIT_COUNTS = jnp.array([[3.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
SPLIT_MASK = jnp.array([[True] * 3] * 2 + [[False] * 3])


@pytest.mark.parametrize(('scope', 'loss'), [('group', 2), ('global', 1)])
def test_scope(scope, loss):
    args = (SPLIT, SPLIT_COUNTS, SPLIT_MASK)
    assert losses.load_balance(*args, scope=scope) == loss


def test_padded_scope():
    # Over all three places of each group: f = p = [2/3, 0] of the first, whose
    # third place is empty, [0, 1] of the second, nothing of the third; E = 2:
    # (2 * 4/9 + 2 * 1 + 0) / 3.
    mask = SPLIT_MASK.at[0, 2].set(False)
    counts = SPLIT_COUNTS.at[0, 0].set(2)
    padded = functools.partial(losses.load_balance, scope='padded')
    value, gradient = jax.value_and_grad(padded)(SPLIT, counts, mask)
    np.testing.assert_allclose(value, (8 / 9 + 2) / 3, rtol=1e-6)
    # d/dp of it: E f_e / 3 places / 3 groups, where live.
    desired = np.zeros((3, 3, 2))
    desired[0, :2, 0] = 2 * (2 / 3) / 9
    desired[1, :, 1] = 2 / 9
    np.testing.assert_allclose(gradient, desired, rtol=1e-6)


def test_padded_scope_is_that_of_groups_without_padding():
    # E^2 times the mean over (group, expert) of density times probability.
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(3), (2, 4)).astype(np.float32)
    counts = np.float32([[1, 3, 0], [2, 0, 2]])
    desired = 9 * np.mean(counts / 4 * np.float64(probs).mean(1))
    for scope in ('group', 'padded'):
        args = (probs, counts, all_live(probs))
        loss = losses.load_balance(*args, scope=scope)
        np.testing.assert_allclose(loss, desired, rtol=1e-6)


def test_padding_counts_in_neither_factor():
    # The known gates, and two rows of padding that would shift the mean.
    probs = jnp.array([GATES[0] + [[0.0, 1.0, 0.0]] * 2])
    mask = jnp.array([[True] * 4 + [False] * 2])
    for scope in ('group', 'global'):
        args = (probs, jnp.array(FIRST_CHOICES), mask)
        loss = losses.load_balance(*args, scope=scope)
        np.testing.assert_allclose(loss, 1.0875, rtol=1e-6)


def test_balance_gradient():
    # d/dp of E sum_e f_e mean_t p_te: E f_e / T = 3 * [.5, 0, .5] / 4 for the
    # four live tokens, nothing for the fifth; and none through the counts.
    probs = jnp.array([GATES[0] + [[0.2, 0.2, 0.6]]])
    mask = jnp.array([[True] * 4 + [False]])
    gradient, of_counts = jax.grad(losses.load_balance, argnums=(0, 1))(
        probs, jnp.array(FIRST_CHOICES), mask
    )
    desired = np.array([[[0.375, 0, 0.375]] * 4 + [[0, 0, 0]]])
    np.testing.assert_allclose(gradient, desired, rtol=1e-6)
    assert not np.any(of_counts)


@pytest.mark.parametrize('scope', ['group', 'global', 'padded'])
def test_nothing_live_is_zero_and_not_nan(scope):
    mask = jnp.zeros((1, 4), bool)
    balance = functools.partial(losses.load_balance, scope=scope)
    args = (jnp.array(GATES), jnp.zeros((1, 3)), mask)
    value, gradient = jax.value_and_grad(balance)(*args)
    assert value == 0
    assert not np.any(gradient)
    value, gradient = jax.value_and_grad(losses.router_z)(args[0], mask)
    assert value == 0
    assert not np.any(gradient)
    assert losses.masked_mean(jnp.ones((1, 4)), mask) == 0


def test_masked_mean():
    # (1 + 2 + 6) / 3; the infinity is padding.
    values = jnp.array([[1.0, 2.0], [jnp.inf, 6.0]])
    mask = jnp.array([[True, True], [False, True]])
    assert losses.masked_mean(values, mask) == 3


def test_router_z():
    # log(1 + 3) and log(4 * 1) squared, and padding with large logits; the
    # gradient is 2 z softmax / 2 tokens, with softmax [.25, .75] and [.5, .5].
    logits = jnp.array([[[0.0, np.log(3)], [np.log(2)] * 2, [90.0, 80.0]]])
    mask = jnp.array([[True, True, False]])
    value, gradient = jax.value_and_grad(losses.router_z)(logits, mask)
    z = np.log(4)
    np.testing.assert_allclose(value, z**2, rtol=1e-6)
    desired = z * np.array([[[0.25, 0.75], [0.5, 0.5], [0, 0]]])
    np.testing.assert_allclose(gradient, desired, rtol=1e-6)


@pytest.mark.parametrize('shift', [1e4, -1e4])
def test_router_z_does_not_overflow(shift):
    # logsumexp of [c, c] is c + log 2.
    logits = jnp.full((1, 1, 2), shift)
    value, gradient = jax.value_and_grad(losses.router_z)(
        logits, jnp.ones((1, 1), bool)
    )
    np.testing.assert_allclose(value, (shift + np.log(2)) ** 2, rtol=1e-6)
    np.testing.assert_allclose(gradient, shift, rtol=1e-3)


def test_losses_are_float32_of_bfloat16():
    probs = jnp.array(GATES, jnp.bfloat16)
    args = (jnp.array(FIRST_CHOICES), all_live(probs))
    assert losses.load_balance(probs, *args).dtype == jnp.float32
    assert losses.router_z(probs, args[1]).dtype == jnp.float32


# Eight devices with one group of 6 tokens each, of which device d has 6 - d
# live ones, and devices 6 and 7 none.
def eight_groups():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(8, 6, 3)).astype(np.float32)
    mask = np.arange(6) < 6 - np.arange(8)[:, None]
    chosen = np.argmax(logits, axis=-1)[:, None]
    counts = reference.count(chosen, mask, 3).astype(np.float32)
    return logits, counts, mask


def over_shard_map(function, *args):
    """Loss and gradient of tokens split over a mesh of eight devices."""
    mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
    split, whole = PartitionSpec('data'), PartitionSpec()
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=(split,) * len(args), out_specs=whole
    )
    return jax.jit(jax.value_and_grad(mapped))(*args)


def over_pmap(function, *args):
    """The same, where every device has its own copy of the loss."""
    mapped = jax.pmap(function, axis_name='data')
    args = [arg[:, None] for arg in args]
    value, gradient = jax.value_and_grad(
        lambda first, *rest: jnp.mean(mapped(first, *rest))
    )(*args)
    return value, gradient[:, 0]


OVER_DEVICES = {'shard_map': over_shard_map, 'pmap': over_pmap}


@pytest.mark.parametrize('scope', ['group', 'global'])
@pytest.mark.parametrize('how', OVER_DEVICES)
def test_balance_over_devices_is_that_of_one(how, scope):
    logits, counts, mask = eight_groups()
    probs = np.float32(jax.nn.softmax(logits))

    def balance(axis_name):
        return functools.partial(
            losses.load_balance, scope=scope, axis_name=axis_name
        )

    args = (probs, counts, mask)
    value, gradient = OVER_DEVICES[how](balance('data'), *args)
    alone, gradient_alone = jax.value_and_grad(balance(None))(*args)
    desired = reference.load_balance(np.float64(probs), counts, mask, scope)
    np.testing.assert_allclose(value, desired, rtol=1e-6)
    np.testing.assert_allclose(alone, desired, rtol=1e-6)
    assert np.any(gradient_alone)
    np.testing.assert_allclose(gradient, gradient_alone, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize('how', OVER_DEVICES)
def test_router_z_over_devices_is_that_of_one(how):
    logits, _, mask = eight_groups()
    over = functools.partial(losses.router_z, axis_name='data')
    value, gradient = OVER_DEVICES[how](over, logits, mask)
    desired = reference.router_z(np.float64(logits), mask)
    np.testing.assert_allclose(value, desired, rtol=1e-6)
    alone = jax.grad(losses.router_z)(logits, mask)
    assert np.any(alone)
    np.testing.assert_allclose(gradient, alone, rtol=1e-5, atol=1e-8)


def gates_of(seed, shape=(8, 6, 3)):
    """Gates of eight groups, of which group g has 6 - g live tokens."""
    gates = np.random.default_rng(seed).random(shape).astype(np.float32)
    mask = np.arange(shape[1]) < shape[1] - np.arange(shape[0])[:, None]
    return gates, mask


def test_known_importance():
    # Sums [1.7, 1.1, 1.2], mean 4/3; squares .1344 + .0544 + .0178 = .2067:
    # over 3 and 16/9 it is .03875, over 2 it is .058125.
    amounts = jnp.sum(jnp.array(GATES), axis=(0, 1))
    population = losses.cv_squared(amounts, unbiased=False)
    np.testing.assert_allclose(population, 0.03875, rtol=1e-5)
    np.testing.assert_allclose(losses.cv_squared(amounts), 0.058125, rtol=1e-5)
    loss = losses.importance(jnp.array(GATES))
    np.testing.assert_allclose(loss, 0.058125, rtol=1e-5)


@pytest.mark.parametrize('unbiased', [True, False])
def test_cv_squared_equals_the_loop(unbiased):
    for seed, size in enumerate([2, 3, 7]):
        amounts = np.random.default_rng(seed).random(size).astype(np.float32)
        loss = losses.cv_squared(jnp.asarray(amounts), unbiased=unbiased)
        desired = reference_losses.cv_squared(np.float64(amounts), unbiased)
        np.testing.assert_allclose(loss, desired, rtol=1e-5)
        assert loss.dtype == jnp.float32


@pytest.mark.parametrize('amounts', [[3.0], [2.0] * 4, [0.0] * 4])
def test_cv_squared_is_zero_for_equal_amounts(amounts):
    value, gradient = jax.value_and_grad(losses.cv_squared)(jnp.array(amounts))
    assert value == 0
    assert not np.any(gradient)


def test_cv_squared_when_collapsed():
    # One of E has all: unbiased variance 1/E, mean 1/E: the ratio is E.
    amounts = jnp.array([1.0, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(losses.cv_squared(amounts), 4, rtol=1e-6)
    population = losses.cv_squared(amounts, unbiased=False)
    np.testing.assert_allclose(population, 3, rtol=1e-6)


def test_losses_of_gates_equal_the_loops():
    for seed in range(3):
        gates, mask = gates_of(seed)
        wide = np.float64(gates)
        live = np.where(mask[..., None], gates, 0)
        np.testing.assert_allclose(
            losses.importance(live),
            reference_losses.importance(wide, mask),
            rtol=1e-5,
        )
        np.testing.assert_allclose(
            losses.load(gates, mask),
            reference_losses.load(wide, mask),
            rtol=1e-5,
        )
        np.testing.assert_allclose(
            losses.l1(gates, mask), reference_losses.l1(wide, mask), rtol=1e-6
        )


def test_balanced_gates():
    # Every expert's gates are the same four numbers.
    row = [0.5, 0.3, 0.2, 0.0]
    gates = jnp.array([[np.roll(row, s) for s in range(4)]])
    mask = jnp.ones((1, 4), bool)
    np.testing.assert_allclose(losses.importance(gates), 0, atol=1e-12)
    np.testing.assert_allclose(losses.load(gates, mask), 0, atol=1e-12)
    np.testing.assert_allclose(losses.l1(gates, mask), 1, rtol=1e-6)


def test_padding_is_in_no_load_and_no_l1():
    gates = jnp.array([[[1.0, 0.0], [0.0, 1.0], [jnp.nan, jnp.inf]]])
    mask = jnp.array([[True, True, False]])
    assert losses.load(gates, mask) == 0
    assert losses.l1(gates, mask) == 1


@pytest.mark.parametrize('how', OVER_DEVICES)
@pytest.mark.parametrize('name', ['importance', 'load', 'l1'])
def test_gates_over_devices_are_those_of_one(name, how):
    gates, mask = gates_of(0)
    gates = np.where(mask[..., None], gates, 0)
    args = (gates,) if name == 'importance' else (gates, mask)
    function = getattr(losses, name)
    over = functools.partial(function, axis_name='data')
    value, gradient = OVER_DEVICES[how](over, *args)
    alone, gradient_alone = jax.jit(jax.value_and_grad(function))(*args)
    desired = getattr(reference_losses, name)(np.float64(gates), mask)
    np.testing.assert_allclose(value, desired, rtol=1e-5)
    np.testing.assert_allclose(alone, desired, rtol=1e-5)
    assert np.any(gradient_alone)
    np.testing.assert_allclose(gradient, gradient_alone, rtol=1e-4, atol=1e-7)

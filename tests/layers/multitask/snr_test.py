"""Sub-network routing against loops, recorded runs and its known numbers."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.layers.multitask import (
    SNR,
    expected_open,
    hard_concrete,
    pruned,
    shared_routes,
    snr_outputs,
)
from tests import tiny
from tests.reference import snr as reference
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow

FILE = pathlib.Path(__file__).parents[2] / 'goldens' / 'multitask.json'
B, N, M, D, F = 5, 3, 2, 4, 6
# Clipped at 0, in the middle and clipped at 1, in training and evaluation:
# evaluation closes below log(1/11) = -2.4, and is 1 above 2.4.
LOG_ALPHA = np.array([[-3.0, -1.0, 0.3], [2.0, 4.0, -2.5]], np.float32)
UNIFORM = np.array([[0.6, 0.7, 0.99], [0.4, 0.5, 0.02]], np.float32)
X = tiny.numbers((B, N, D), 0)


def width(kind):
    return {'trans': F, 'aver': D}[kind]


def params_of(kind):
    if kind == 'aver':
        return {'log_alpha': LOG_ALPHA}
    return {'log_alpha': LOG_ALPHA, 'weight': tiny.numbers((M, N, D, F), 1)}


@functools.cache
def program(kind, ste):
    """Gradients of the outputs, and what they are of."""
    layer = SNR(M, width(kind), kind, straight_through=ste)

    def objective(params, x, dy, uniform):
        y, aux = layer.apply({'params': params}, x, uniform=uniform)
        return jnp.sum(y * dy), (y, aux)

    return jax.jit(jax.grad(objective, argnums=(0, 1), has_aux=True))


@pytest.mark.parametrize('uniform', [None, UNIFORM], ids=['eval', 'drawn'])
@pytest.mark.parametrize('ste', [False, True], ids=['', 'ste'])
@pytest.mark.parametrize('kind', ['trans', 'aver'])
def test_equals_the_loop(kind, ste, uniform):
    params, dy = params_of(kind), tiny.numbers((B, M, width(kind)), 2)
    (d_params, d_x), (y, aux) = jax.device_get(
        program(kind, ste)(params, X, dy, uniform)
    )
    z, slope = np.zeros((M, N)), np.zeros((M, N))
    for route in np.ndindex(M, N):
        u = None if uniform is None else np.float64(uniform[route])
        z[route], slope[route] = reference.gate(LOG_ALPHA[route], u, ste=ste)
    # Both clipped regions and the middle are there.
    assert {0.0, 1.0} < set(z.ravel())
    assert ste or np.all((slope == 0) == ((z == 0) | (z == 1)))
    wide = params.get('weight')
    wide = None if wide is None else np.float64(wide)
    assert_close(y, reference.outputs(np.float64(X), z, wide), 1e-6)
    assert_close(aux.stats['gate'], z, 1e-6)
    np.testing.assert_array_equal(aux.stats['gate'] == 0, z == 0)
    d_log_alpha, d_weight, desired = reference.gradients(
        np.float64(X), z, slope, wide, np.float64(dy)
    )
    assert_close(d_params['log_alpha'], d_log_alpha, 2e-6)
    assert_close(d_x, desired, 1e-6)
    if wide is not None:
        assert_close(d_params['weight'], d_weight, 1e-6)
    l0 = sum(reference.open_chance(a) for a in np.float64(LOG_ALPHA.ravel()))
    assert_close(aux.losses, {'l0': l0}, 1e-6)
    assert_close(aux.stats['open_routes'], l0, 1e-6)


@pytest.mark.parametrize(
    'name', ['snr_trans_predict', 'snr_trans_train_fixed_u']
)
def test_reproduces_the_recorded_run(name):
    data = json.loads(FILE.read_text())[name]
    # Theirs: inputs and outputs lead, and route i*M + j is a row.
    x = np.float32(data['inputs']).swapaxes(0, 1)
    desired = np.float64(data['outputs']).swapaxes(0, 1)
    _, num_inputs, wide = x.shape
    _, num_outputs, features = desired.shape
    routes = (num_inputs, num_outputs)
    by_output = lambda v, *shape: np.swapaxes(
        np.float32(v).reshape(*routes, *shape), 0, 1
    )
    log_alpha = data['params']['snr/log_alpha']
    weight = data['params']['snr/weight']
    params = {
        'log_alpha': by_output(log_alpha),
        'weight': by_output(weight, wide, features),
    }
    uniform = None if data['u'] is None else by_output(data['u'])
    layer = SNR(num_outputs, features, data['type'])

    def objective(params):
        y, aux = layer.apply({'params': params}, x, uniform=uniform)
        return jnp.sum(y**2), (y, aux)

    run = jax.jit(jax.grad(objective, has_aux=True))
    gradients, (y, aux) = jax.device_get(run(params))
    assert_close(y, desired, 1e-5)
    assert_close(aux.stats['gate'], by_output(data['z']), 1e-5)
    l0 = np.float64(data['l0_loss'])
    assert_close(aux.losses['l0'], l0, 1e-5, scale=l0)
    recorded = data['grads_of_sum_sq']
    desired = {
        'log_alpha': by_output(recorded['snr/log_alpha']),
        'weight': by_output(recorded['snr/weight'], wide, features),
    }
    assert_close(gradients, desired, 1e-5)


def test_known_numbers():
    # z(eval) = sigmoid(0)*1.2 - .1 = .5; 4 inputs of ones: 4 * .5 = 2 in each
    # of 100 * 3 * 128 numbers; L0 = 12 routes of .76833752.
    layer = SNR(3, 128, 'aver')
    x = [jnp.ones((100, 128))] * 4
    init = jax.jit(layer.init_with_output)
    (y, aux), params = init(jax.random.key(0), x)
    assert jnp.sum(y) == 76800.0
    np.testing.assert_array_equal(aux.stats['gate'], np.full((3, 4), 0.5))
    np.testing.assert_allclose(aux.losses['l0'], 9.2200503, rtol=1e-7)
    np.testing.assert_allclose(expected_open(0.0), 0.76833752, rtol=1e-7)
    assert list(params['params']) == ['log_alpha']


def test_gates_are_closed_as_often_as_l0_says():
    # At log_alpha = 0 z is 0 and 1 with probability .2316625 each. Of 2**20
    # draws the share has standard deviation 4.1e-4; five of them are 2.1e-3.
    draws = jax.random.uniform(jax.random.key(3), (2**20,))
    z = hard_concrete(jnp.zeros_like(draws), draws)
    for end in (0.0, 1.0):
        np.testing.assert_allclose(jnp.mean(z == end), 0.2316625, atol=2.1e-3)
    shifted = hard_concrete(jnp.full_like(draws, -1.5), draws)
    desired = reference.open_chance(-1.5)
    np.testing.assert_allclose(jnp.mean(shifted > 0), desired, atol=2.1e-3)


@pytest.mark.parametrize('ste', [False, True])
def test_finite_for_every_draw(ste):
    near = np.float32([0, 1e-45, 1e-30, 1e-7, 0.5, 1 - 6e-8, 1])
    log_alpha = np.float32([-1e38, -1e4, -90, -17, 0, 17, 90, 1e4, 1e38])
    log_alpha, draws = np.meshgrid(log_alpha, near)
    sample = functools.partial(hard_concrete, straight_through=ste)
    for uniform in (None, draws):
        z, pull = jax.vjp(lambda a, u=uniform: sample(a, u), log_alpha)
        (slope,) = pull(jnp.ones_like(z))
        assert np.all((z >= 0) & (z <= 1))
        assert np.all(np.isfinite(slope))
        # The ends are where the log-odds say: -90 and 90 beat any draw.
        np.testing.assert_array_equal(z[:, :3], 0)
        np.testing.assert_array_equal(z[:, -3:], 1)
    chance, pull = jax.vjp(expected_open, log_alpha)
    assert np.all(np.isfinite(pull(chance)[0]))


def test_straight_through_changes_no_gate():
    alpha = tiny.numbers((50, 40), 5, scale=3.0)
    draws = np.random.default_rng(6).uniform(size=alpha.shape)
    for uniform in (None, np.float32(draws)):
        np.testing.assert_array_equal(
            hard_concrete(alpha, uniform, straight_through=True),
            hard_concrete(alpha, uniform),
        )


def test_training_draws_once_a_call_and_evaluation_never():
    layer, params = SNR(M, F), {'params': params_of('trans')}
    run = jax.jit(layer.apply, static_argnames='train')
    keys = [{'router': jax.random.key(seed)} for seed in (0, 0, 1)]
    y, again, other = (run(params, X, train=True, rngs=k)[0] for k in keys)
    np.testing.assert_array_equal(y, again)
    assert not np.allclose(y, other)
    # One gate for all rows: each is what it would be alone.
    alone, _ = run(params, X[:1], train=True, rngs=keys[0])
    assert_close(y[:1], np.array(alone), 1e-6)
    evaluated, _ = run(params, X, rngs=keys[0])
    np.testing.assert_array_equal(evaluated, run(params, X)[0])
    with pytest.raises(ValueError, match="needs an rng named 'router'"):
        layer.apply(params, X, train=True)


def test_first_matrices_have_the_fan_of_one():
    # U(-a, a) with a = sqrt(6 / (64 + 32)) = .25, variance a^2/3 = 1/48.
    x = jnp.zeros((1, 8, 64))
    params = SNR(3, 32).init(jax.random.key(0), x)['params']
    weight = np.array(params['weight'])
    assert weight.shape == (3, 8, 64, 32)
    assert 0.249 < np.max(np.abs(weight)) <= 0.25
    for matrix in weight.reshape(24, 64, 32):
        np.testing.assert_allclose(np.var(matrix), 1 / 48, rtol=0.1)
    assert len({matrix[0, 0] for matrix in weight.reshape(24, 64, 32)}) == 24
    np.testing.assert_array_equal(params['log_alpha'], np.zeros((3, 8)))
    # Any initializer is called for one matrix at a time.
    eye = lambda key, shape: jnp.eye(*shape)
    params = SNR(3, 32, initializer=eye).init(jax.random.key(0), x)['params']
    np.testing.assert_array_equal(params['weight'][2, 7], np.eye(64, 32))


def test_padding_influences_nothing():
    params = {'params': params_of('trans')}
    mask = np.array([1, 0, 1, 1, 0], bool)
    y, _ = SNR(M, F).apply(params, X)
    x = np.where(mask[:, None, None], X, np.float32(np.nan))
    masked, _ = SNR(M, F).apply(params, x, mask=mask)
    np.testing.assert_array_equal(masked[mask], np.array(y)[mask])
    assert not np.any(masked[~mask])


@pytest.mark.parametrize('kind', ['trans', 'aver'])
def test_in_bfloat16(kind):
    params, x = {'params': params_of(kind)}, jnp.asarray(X, jnp.bfloat16)
    layer = SNR(M, width(kind), kind)
    y, aux = layer.apply(params, x)
    assert y.dtype == jnp.bfloat16
    assert aux.stats['gate'].dtype == aux.losses['l0'].dtype == jnp.float32
    assert_close(y, np.array(layer.apply(params, X)[0]), 2e-2)


def test_regularization_has_its_coefficients():
    params = {'params': params_of('trans')}
    weight = np.float64(params['params']['weight'])
    _, aux = SNR(M, F, l1=0.1, l2=0.01).apply(params, X)
    desired = 0.1 * np.sum(np.abs(weight)) + 0.01 * np.sum(weight**2)
    np.testing.assert_allclose(aux.losses['regularization'], desired, rtol=1e-6)


def test_refusals():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r'width 4 .* features = 6'):
        SNR(M, F, 'aver').init(key, X)
    with pytest.raises(ValueError, match=r'gamma = 0.1 .* zeta = 1.1'):
        SNR(M, F, gamma=0.1).init(key, X)
    with pytest.raises(KeyError, match='average'):
        SNR(M, F, 'average').init(key, X)
    with pytest.raises(ValueError, match='same shape'):
        SNR(M, F).init(key, [X[:, 0], X[:, 0, :2]])


def flops(function, *args):
    """Of the compiled function."""
    return jax.jit(function).lower(*args).compile().cost_analysis()['flops']


@pytest.mark.parametrize('kind', ['trans', 'aver'])
def test_pruned_routes_cost_nothing(kind):
    # Of n open routes of an output: products of 500 rows and of a gate with
    # its matrix, n each; or n products and n - 1 sums of 500 * D numbers.
    price = {
        'trans': lambda n: n * (2 * 500 * D * F + D * F),
        'aver': lambda n: (n + max(n - 1, 0)) * 500 * D,
    }[kind]
    layer = SNR(M, width(kind), kind)
    many = jnp.tile(X, (100, 1, 1))
    for log_alpha, inputs in (
        ([[-3, 1, -3], [0, 4, -3]], ((1,), (0, 1))),
        ([[-3, 1, 0], [-3, -9, -3]], ((1, 2), ())),
        ([[9, 0, 1], [2, 3, 4]], ((0, 1, 2), (0, 1, 2))),
    ):
        params = {**params_of(kind), 'log_alpha': np.float32(log_alpha)}
        desired, _ = layer.apply({'params': params}, X)
        small = pruned(params)
        assert small.inputs == inputs
        assert_close(jax.jit(small)(X), np.array(desired), 1e-6)
        cost = flops(lambda p, x: p(x), small, many)
        np.testing.assert_allclose(cost, sum(price(len(i)) for i in inputs))
    everything = flops(
        lambda p, x: layer.apply(p, x)[0], {'params': params}, many
    )
    np.testing.assert_allclose(cost, everything, rtol=0.01)


def test_shared_routes():
    # Open: {0, 1, 2}, {2, 3}, {}, {0}.
    z = jnp.array(
        [[0.1, 1, 0.5, 0], [0, 0, 1, 0.2], [0, 0, 0, 0], [1, 0, 0, 0]]
    )
    third = 1 / 3
    desired = [
        [1, third, 0, third],
        [0.5, 1, 0, 0],
        [0, 0, 0, 0],
        [1, 0, 0, 1],
    ]
    np.testing.assert_allclose(shared_routes(z), desired, rtol=1e-6)


def test_one_product_and_none_for_sums():
    z, weight = jnp.ones((M, N)), jnp.ones((M, N, D, F))
    jaxpr = str(jax.make_jaxpr(snr_outputs)(X, z, weight))
    assert jaxpr.count('dot_general') == 1
    # [B, N*D] x [N*D, M*F].
    assert f'f32[{B},{N * D}]' in jaxpr
    assert f'f32[{N * D},{M * F}]' in jaxpr
    assert 'dot_general' not in str(jax.make_jaxpr(snr_outputs)(X, z))

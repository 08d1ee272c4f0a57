"""Feed-forward experts against a loop over rows, in values and gradients."""

import dataclasses
import functools
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.config import ConfigError, OneOf, Registry, options, parse
from moe.config.registry import entry_of
from moe.experts import ACTIVATIONS, MLP
from tests.reference import experts as reference
from tests.reference import scenarios
from tests.reference.compare import assert_close

E, N, D, F = 3, 5, scenarios.WIDTH, scenarios.HIDDEN
NAMES = [*reference.POINTWISE, reference.CLAMPED]
# Rows of each expert: E full buffers, or sorted rows of which 2 are empty.
SIZES = {'padded': (5, 5, 5), 'grouped': (6, 0, 7)}


def draw(activation, use_bias, seed=0):
    rng = np.random.default_rng(seed)
    shapes = scenarios.expert_shapes(E, activation, use_bias)
    params = {n: rng.standard_normal(s) for n, s in shapes.items()}
    x, dy = rng.standard_normal((2, E * N, D))
    return jax.tree.map(np.float32, (params, x, dy))


def own(activation):
    """What an `MLP` takes, of what the oracle does."""
    if activation != reference.CLAMPED:
        return activation
    name, limit, alpha = activation
    return functools.partial(ACTIVATIONS[name], limit=limit, alpha=alpha)


def expected(params, x, dy, activation, sizes):
    """Outputs of sorted rows, and their gradients, by a loop over rows."""
    wide = {name: np.float64(value) for name, value in params.items()}
    y, dx = np.zeros(x.shape), np.zeros(x.shape)
    d_params = {name: np.zeros(value.shape) for name, value in wide.items()}
    for a, e in enumerate(np.repeat(np.arange(E), sizes)):
        args = (np.float64(x[a]), reference.expert_of(wide, e), activation)
        y[a] = reference.mlp(*args)
        dx[a], d_row = reference.mlp_gradients(*args, np.float64(dy[a]))
        for name, value in d_row.items():
            d_params[name][e] += value
    return y, dx, d_params


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(module, params, x, dy, *sizes):
    def apply(params, x):
        return module.apply({'params': params}, x, *sizes)

    y, pull = jax.vjp(apply, params, x)
    d_params, dx = pull(dy)
    return y, dx, d_params


@pytest.mark.parametrize('layout', SIZES)
@pytest.mark.parametrize('activation', NAMES, ids=str)
def test_equals_the_loop(activation, layout):
    params, x, dy = draw(activation, use_bias=True)
    desired = expected(params, x, dy, activation, SIZES[layout])
    module = MLP(F, E, own(activation), use_bias=True)
    if layout == 'padded':
        x, dy = x.reshape(E, N, D), dy.reshape(E, N, D)
        y, dx, d_params = value_and_gradients(module, params, x, dy)
        y, dx = y.reshape(-1, D), dx.reshape(-1, D)
    else:
        # A bias does not fill the rows past the last group either: dy is not
        # zero there, and reaches no parameter.
        sizes = jnp.array(SIZES[layout])
        y, dx, d_params = value_and_gradients(module, params, x, dy, sizes)
    # In gelu's gradient 1 - tanh^2 cancels: 1e-5 is lost at |x| = 7.
    tolerance = 2e-5 if activation in ('gelu', 'geglu') else 5e-6
    assert_close((y, dx, d_params), desired, tolerance)


@pytest.mark.parametrize('layout', SIZES)
def test_a_function_is_an_activation(layout):
    # As the one of that name, without another matrix.
    params, x, _ = draw('relu', use_bias=True)
    sizes = (jnp.array(SIZES[layout]),) if layout == 'grouped' else ()
    x = x if sizes else x.reshape(E, N, D)
    named, given = (
        MLP(F, E, activation, use_bias=True)
        for activation in ('relu', lambda h: jnp.maximum(h, 0))
    )
    y = given.apply({'params': params}, x, *sizes)
    desired = named.apply({'params': params}, x, *sizes)
    np.testing.assert_array_equal(y, desired)
    first = jax.eval_shape(given.init, jax.random.key(0), x, *sizes)
    assert set(first['params']) == set(params)


def test_a_config_names_its_activation():
    # Only code can give a function: the message does not offer one.
    registry = Registry('experts')
    registry.register('mlp')(MLP)

    @dataclasses.dataclass(frozen=True)
    class Schema:
        experts: Annotated[Any, OneOf(registry)]

    section = {'name': 'mlp', 'hidden': F, 'activation': 'geglu'}
    parsed = parse(Schema, {'experts': section})
    assert entry_of(parsed.experts().activation) is ACTIVATIONS['geglu']
    with pytest.raises(ConfigError, match=r'must be one of .*, silu, swiglu$'):
        parse(Schema, {'experts': section | {'activation': 'tanh'}})
    # One with options is a section.
    clamped = {'name': 'clamped_swiglu', 'limit': 7}
    parsed = parse(Schema, {'experts': section | {'activation': clamped}})
    activation = parsed.experts().activation
    assert options(activation) == {'limit': 7, 'alpha': 1.702}
    bad = section | {'activation': clamped | {'limit': 0}}
    with pytest.raises(ConfigError, match=r'activation.limit = 0.0: must be '):
        parse(Schema, {'experts': bad})


def test_refuses_an_unknown_activation():
    line = '^activation = .tanh.: must be one of .*, swiglu, or a function'
    with pytest.raises(ConfigError, match=line):
        MLP(F, activation='tanh').init(jax.random.key(0), jnp.ones((1, D)))


@pytest.mark.parametrize('use_bias', [False, True])
@pytest.mark.parametrize('activation', ['relu', 'geglu'])
def test_dense_twin_is_a_single_expert(activation, use_bias):
    # Rows of any leading shape, through expert 1's parameters.
    params, x, dy = draw(activation, use_bias)
    y, dx, d_params = expected(params, x, dy, activation, (0, E * N, 0))
    module = MLP(F, None, activation, use_bias)
    one = reference.expert_of(params, 1)
    x, dy = x.reshape(5, 1, 3, D), dy.reshape(5, 1, 3, D)
    actual = value_and_gradients(module, one, x, dy)
    desired = (
        y.reshape(x.shape),
        dx.reshape(x.shape),
        reference.expert_of(d_params, 1),
    )
    assert_close(actual, desired, 5e-6)


@pytest.mark.parametrize('layout', SIZES)
def test_bfloat16_computes_and_float32_is_kept(layout):
    params, x, dy = draw('swiglu', use_bias=True)
    params, x, dy = jax.tree.map(
        lambda v: np.float32(v.astype(jnp.bfloat16)), (params, x, dy)
    )
    desired = expected(params, x, dy, 'swiglu', SIZES[layout])
    module = MLP(F, E, 'swiglu', use_bias=True, dtype=jnp.bfloat16)
    sizes = (jnp.array(SIZES[layout]),) if layout == 'grouped' else ()
    shape = x.shape if sizes else (E, N, D)
    x, dy = (jnp.asarray(v.reshape(shape), jnp.bfloat16) for v in (x, dy))
    y, dx, d_params = value_and_gradients(module, params, x, dy, *sizes)
    assert y.dtype == dx.dtype == jnp.bfloat16
    assert {d.dtype for d in d_params.values()} == {jnp.dtype('float32')}
    # Half a dozen roundings of 2^-8 on the way.
    actual = (y.reshape(-1, D), dx.reshape(-1, D), d_params)
    assert_close(actual, desired, 2e-2)


def module_and_rows(**options):
    module = MLP(**{'hidden': 256, 'activation': 'swiglu', **options})
    lead = () if module.num_experts is None else (module.num_experts,)
    return module, jnp.ones((*lead, 1, 64))


@functools.lru_cache
def initial(**options):
    module, rows = module_and_rows(**options)
    variables = jax.jit(module.init)(jax.random.key(0), rows)
    return jax.device_get(variables['params'])


@pytest.mark.parametrize('num_experts', [None, 4])
def test_fan_in_is_the_experts_own(num_experts):
    # Standard deviation 1/sqrt(fan_in), of fan-in D = 64 and F = 256, of each
    # expert by itself; 16384 draws of it are .6 % off. Counting E = 4 into the
    # fan would halve it.
    params = initial(num_experts=num_experts)
    for name, fan_in in [('up', 64), ('gate', 64), ('down', 256)]:
        std = np.std(params[name], axis=(-2, -1))
        np.testing.assert_allclose(std, fan_in**-0.5, rtol=0.03, err_msg=name)
        assert np.abs(np.mean(params[name])) < 0.05 * fan_in**-0.5
    # No expert is another's copy.
    if num_experts is None:
        return
    for name in ('up', 'gate', 'down'):
        for e in range(num_experts):
            for other in range(e):
                same = params[name][e] == params[name][other]
                assert np.mean(same) < 0.01, (name, e, other)


def test_down_scale_scales_the_last_matrix_alone():
    plain, scaled = initial(num_experts=None), initial(down_scale=0.25)
    np.testing.assert_allclose(scaled['down'], plain['down'] / 4, rtol=1e-6)
    np.testing.assert_array_equal(scaled['up'], plain['up'])
    np.testing.assert_array_equal(scaled['gate'], plain['gate'])


def test_biases_begin_at_zero():
    params = initial(activation='relu', use_bias=True)
    assert np.any(params['up'])
    assert not np.any(params['up_bias'])
    assert not np.any(params['down_bias'])


@pytest.mark.parametrize(
    ('options', 'shapes'),
    [
        (
            {'num_experts': 4},
            {
                'up': (4, 64, 256),
                'gate': (4, 64, 256),
                'down': (4, 256, 64),
            },
        ),
        (
            {'activation': 'gelu', 'use_bias': True},
            {
                'up': (64, 256),
                'up_bias': (256,),
                'down': (256, 64),
                'down_bias': (64,),
            },
        ),
    ],
)
def test_parameters_by_name_and_shape(options, shapes):
    module, rows = module_and_rows(**options)
    params = jax.eval_shape(module.init, jax.random.key(0), rows)['params']
    assert {name: p.shape for name, p in params.items()} == shapes


@pytest.mark.slow
@pytest.mark.parametrize('layout', ['dense', 'padded', 'grouped'])
def test_dropout_of_hidden_units_and_outputs(layout):
    # down * drop(relu(up x)), dropped again: V-MoE's MlpBlock, arXiv
    # 2106.05974, with the masks of each row's seed.
    lead = () if layout == 'dense' else (E,)
    rng = np.random.default_rng(0)
    up = rng.standard_normal((*lead, D, F), np.float32)
    down = rng.standard_normal((*lead, F, D), np.float32)
    x = rng.standard_normal((E * N, D), np.float32)
    seeds = np.arange(7, 7 + E * N, dtype=np.uint32)
    sizes = SIZES['grouped'] if layout == 'grouped' else (N,) * E
    rate = 0.25
    module = MLP(
        F, None if layout == 'dense' else E, 'relu', dropout=rate, parent=None
    )
    rows, given = x, None
    if layout == 'padded':
        rows, seeds = x.reshape(E, N, D), seeds.reshape(E, N)
    elif layout == 'grouped':
        given = jnp.array(sizes)
    params = {'params': {'up': up, 'down': down}}
    y = module.apply(params, rows, given, seeds).reshape(-1, D)
    for a, e in enumerate(np.repeat(np.arange(E), sizes)):
        key = jax.random.key(seeds.reshape(-1)[a])
        keep = [
            jax.random.bernoulli(jax.random.fold_in(key, i), 1 - rate, (n,))
            for i, n in enumerate((F, D))
        ]
        own = () if layout == 'dense' else (e,)
        hidden = np.maximum(0, np.float64(x[a]) @ up[own]) / (1 - rate)
        desired = (hidden * keep[0]) @ down[own] / (1 - rate) * keep[1]
        assert_close(y[a], desired, 1e-5)
    still = module.apply(params, rows, given)
    plain = module.clone(dropout=0.0).apply(params, rows, given, seeds)
    np.testing.assert_array_equal(still, plain)

"""Gates over shared experts: recorded runs, loops, and what was wrong there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.experts import BatchNorm, Network
from moe.layers.multitask import MultiGate, mmoe
from moe.routing import (
    SignRule,
    noisy_top_k,
    sigmoid,
    top_k,
    update_router_state,
)
from tests import tiny
from tests.reference import losses as reference_losses
from tests.reference import multitask as reference
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow

B, D, E, N, F, H = 5, 3, 4, 2, 4, 2
KEY = jax.random.key(3)
MASK = np.array([1, 0, 1, 1, 0], bool)
X, DY = tiny.numbers((B, D), 0), tiny.numbers((B, N, H), 1)
# Gate 0 sees experts 0, 2 and 3, gate 1 sees 1 and 3.
VISIBLE = ((True, False, True, True), (False, True, False, True))
network = functools.partial(Network, (F, H))
keeps = functools.partial(top_k, k=2, ties='keep')
RECORDED = {
    'mmoe_softmax': ({'weight_norm': 'learned'}, {}),
    'mmoe_topk2': ({'weight_norm': 'learned'}, {'router': keeps}),
    'mmoe_weight_norm_fixed': (
        {'weight_norm': 'unit'},
        {},
    ),
}
THEIRS = {'kernel': 'kernel', 'bias': 'bias', 'norm': 'trainable_kernel_norm'}


def by_our_names(recorded, fixed):
    """Parameters, or gradients, of a recorded layer of 3 experts, 2 tasks."""
    names = [n for n in THEIRS if n != 'norm' or not fixed]
    got = lambda name: np.float32(recorded[f'mmoe/{name}'])
    experts = {
        f'dense_{j}': {
            n: np.stack(
                [got(f'expert_{i}/dense_{j}/{THEIRS[n]}') for i in range(3)]
            )
            for n in names
        }
        for j in range(2)
    }
    # [Dg, T*E], task by task, to [T, Dg, E].
    gates = np.moveaxis(got('gate_weight').reshape(5, 2, 3), 1, 0)
    return {'experts': experts, 'gates_of_3': {'router': gates}}


@pytest.mark.parametrize('name', RECORDED)
def test_reproduces_the_recorded_run(name):
    data = reference.golden(name)
    of_network, of_gates = RECORDED[name]
    layer = mmoe(
        functools.partial(Network, (7, 4), **of_network), 3, 2, **of_gates
    )
    fixed = of_network['weight_norm'] == 'unit'
    params = by_our_names(data['params'], fixed)
    x = np.float32(data['x'])

    @functools.partial(jax.grad, has_aux=True)
    def gradients(params):
        y, aux = layer.apply({'params': params}, x, train=True)
        return jnp.sum(y**2), (y, aux)

    got, (y, aux) = jax.jit(gradients)(params)
    # Theirs is a list of tasks.
    assert_close(jnp.swapaxes(y, 0, 1), data['outputs'], 1e-5)
    desired = by_our_names(data['grads_of_sum_sq'], fixed)
    assert_close(got, desired, 1e-5)
    mean_gate = np.mean(data['gates_b_e_t'], axis=0).T
    assert_close(aux.stats['gate'], mean_gate, 1e-5)
    if data['aux_loss_vector']:
        (vector,) = data['aux_loss_vector']
        assert_close(aux.stats['importance_cv2'], vector, 1e-5)
        assert aux.losses['importance'].shape == ()
        assert_close(aux.losses['importance'], np.mean(vector), 1e-5)


def drawn(layer, x=X):
    """Random parameters, gates included."""
    return tiny.parameters(layer.init, x, scale=0.7)


def initial(layer):
    return jax.jit(layer.init)(KEY, X)


def program(layer, **options):
    """(y, aux) of variables, inputs and a key."""

    @jax.jit
    def run(variables, x=X, key=KEY):
        return layer.apply(variables, x, rngs={'router': key}, **options)

    return run


def build(router=None, visible=None, **options):
    given = {} if router is None else {'router': router}
    experts = network(num=E)
    return MultiGate(experts, N, visible=visible, **given, **options)


def by_loop(params, x, gate_input, visible, k):
    experts = []
    for e in range(E):
        own = reference.one_of(params['experts'], e)
        x_e = x if x.ndim == 2 else x[:, e]
        experts.append(reference.network(x_e, own, ('relu', 'linear')))
    if visible is None:
        visible, kernels = np.ones((N, E), bool), params['gates_of_4']['router']
    else:
        kernels = [params[f'gates_of_{n}']['router'][0] for n in (3, 2)]
    return reference.multi_gate(
        np.stack(experts, axis=1), gate_input, kernels, np.array(visible), k
    )


@pytest.mark.parametrize(
    ('k', 'visible', 'own'),
    [
        (None, None, False),
        (None, VISIBLE, True),
        (1, VISIBLE, False),
        (2, None, True),
        (2, VISIBLE, False),
    ],
)
def test_equals_the_loop(k, visible, own):
    # Inputs in common, or each expert's and each gate's own.
    router = None if k is None else functools.partial(top_k, k=k)
    layer = build(router, visible)
    x = X, tiny.numbers((B, D + 1), 6)
    if own:
        x = tiny.numbers((B, E, D), 5), tiny.numbers((B, N, D + 1), 6)
    params = drawn(layer, x)

    @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
    def gradients(params, x):
        y, aux = layer.apply({'params': params}, x, train=True, mask=MASK)
        return jnp.sum(y * DY), (y, aux)

    (d_params, d_x), (y, aux) = jax.jit(gradients)(params, x)
    args = (*(np.float64(v) for v in x), visible, k)
    gates, desired = by_loop(params, *args)
    gates, desired = gates * MASK[:, None, None], desired * MASK[:, None, None]
    assert_close(y, desired, 5e-6)
    assert not np.any(np.asarray(y)[~MASK])
    assert not np.any(np.asarray(d_x[0])[~MASK])
    assert_close(aux.stats['gate'], gates.sum(0) / MASK.sum(), 5e-6)
    seen = np.ones((N, E), bool) if visible is None else np.array(visible)
    vector = [
        reference_losses.cv_squared(gates[:, n, seen[n]].sum(0), unbiased=False)
        for n in range(N)
    ]
    assert_close(aux.stats['importance_cv2'], vector, 2e-5)
    assert_close(aux.losses['importance'], np.mean(vector), 2e-5)
    l1 = gates.sum() / N / MASK.sum()
    np.testing.assert_allclose(aux.losses['l1'], l1, rtol=1e-5)
    chosen = np.sum(gates > 0, axis=0)
    load = chosen * seen.sum(1, keepdims=True) / chosen.sum(1, keepdims=True)
    assert_close(aux.stats['load'], load, 1e-6)
    dead = np.sum((chosen == 0) & seen, axis=1)
    np.testing.assert_array_equal(aux.stats['dead_experts'], dead)
    wide = reference.wide(params)
    slopes = reference.numerical_gradient(
        lambda tree: np.sum(by_loop(tree, *args)[1] * DY * MASK[:, None, None]),
        wide,
    )
    assert_close(d_params, slopes, 2e-5, scale=1.0)


def test_sums_the_regularisation_of_every_expert():
    layer = build(kernel_penalty={'l2': 0.5}, bias_penalty={'l1': 2.0})
    params = drawn(layer)

    @jax.jit
    @jax.value_and_grad
    def objective(params):
        aux = layer.apply({'params': params}, X)[1]
        return aux.losses['regularization']

    value, gradient = objective(params)
    layers = params['experts'].values()
    squares = sum(np.sum(p['kernel'] ** 2) for p in layers)
    sizes = sum(np.sum(np.abs(p['bias'])) for p in layers)
    np.testing.assert_allclose(value, 0.5 * squares + 2 * sizes, rtol=1e-5)
    # d(w^2 / 2) = w reaches every kernel; the gates have no penalty.
    for name, own in params['experts'].items():
        assert_close(gradient['experts'][name]['kernel'], own['kernel'], 1e-6)
    assert not np.any(gradient['gates_of_4']['router'])


def test_unlike_experts():
    # Widths and activations of their own; the number is inferred.
    experts = (
        Network((F, H)),
        Network((7, 3, H), activation=('tanh', 'relu', 'silu')),
    )
    layer = MultiGate(experts, N, kernel_penalty={'l1': 1.0})
    params = drawn(layer)
    y, aux = program(layer)({'params': params})
    names = [('relu', 'linear'), ('tanh', 'relu', 'silu')]
    wide = reference.wide(params)
    outputs = [
        reference.network(np.float64(X), wide[f'experts_{i}'], names[i])
        for i in range(2)
    ]
    _, desired = reference.multi_gate(
        np.stack(outputs, axis=1),
        np.float64(X),
        np.float64(params['gates_of_2']['router']),
        np.ones((N, 2), bool),
    )
    assert_close(y, desired, 5e-6)
    kernels = [
        v['kernel'] for i in range(2) for v in params[f'experts_{i}'].values()
    ]
    total = sum(np.sum(np.abs(kernel)) for kernel in kernels)
    np.testing.assert_allclose(aux.losses['regularization'], total, rtol=1e-5)
    layer = MultiGate((Network((2,)), Network((3,))), N)
    with pytest.raises(ValueError, match=r'experts of widths \[2, 3\]'):
        jax.eval_shape(layer.init, KEY, X)


def test_starts_with_equal_gates_and_experts_that_differ():
    layer = build()
    variables = initial(layer)
    _, aux = program(layer)(variables)
    np.testing.assert_allclose(aux.stats['gate'], 1 / E, rtol=1e-6)
    np.testing.assert_allclose(aux.stats['entropy'], np.log(E), rtol=1e-6)
    kernel = variables['params']['experts']['dense_0']['kernel']
    for a in range(E):
        for b in range(a):
            assert np.all(kernel[a] != kernel[b])


def test_ties_at_zero_kernels():
    # Exactly K at the lowest index, or for parity everyone.
    for ties, gates in (('lowest', [0.5, 0.5, 0, 0]), ('keep', [0.25] * 4)):
        layer = build(functools.partial(top_k, k=2, ties=ties))
        _, aux = program(layer)(initial(layer))
        np.testing.assert_allclose(aux.stats['gate'], [gates] * N, rtol=1e-6)


@pytest.mark.parametrize('router', [top_k, noisy_top_k])
def test_one_expert_an_example_trains_the_gate(router):
    layer = build(functools.partial(router, k=1))
    params = drawn(layer)
    run = program(layer, train=True)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(run({'params': p})[0] * DY)))(
        params
    )['gates_of_4']['router']
    assert np.all(np.isfinite(gradient))
    assert np.all(np.max(np.abs(gradient), axis=(1, 2)) > 1e-2)


def test_noise_is_of_training_and_of_each_gate():
    # softplus(gate_input @ Wn), which has no floor for seed-like runs.
    router = functools.partial(noisy_top_k, k=E, noise_epsilon=0.0)
    layer = build(router)
    params = drawn(layer)
    gates = params['gates_of_4']
    # Two gates with the same kernels differ by their noise alone.
    params['gates_of_4'] = {n: np.stack([v[0]] * N) for n, v in gates.items()}
    variables = {'params': params}
    still = jax.jit(layer.apply)(variables, X)[0]  # without a key
    np.testing.assert_array_equal(program(layer)(variables)[0], still)
    run = program(layer, train=True)
    y, aux = run(variables)
    assert not np.allclose(y, still)
    assert not np.allclose(y, run(variables, X, jax.random.key(4))[0])
    assert not np.allclose(aux.stats['gate'][0], aux.stats['gate'][1])
    # glorot normal of one gate's [D, E], not zero.
    first = initial(layer)['params']['gates_of_4']
    assert np.all(first['router_noise'] != 0)
    assert not np.any(first['router'])


def test_gate_dropout_is_of_training_and_leaves_one_expert():
    layer = build(visible=VISIBLE, dropout=0.9)
    variables = {'params': drawn(layer)}
    still = program(build(visible=VISIBLE))(variables)[0]
    assert_close(program(layer)(variables)[0], np.asarray(still), 1e-6)
    run = program(layer, train=True)
    y, aux = run(variables)
    assert not np.allclose(y, still)
    # Gates over what is left: they sum to 1, nothing unseen among them.
    np.testing.assert_allclose(aux.losses['l1'], 1, rtol=1e-6)
    assert not np.any(np.asarray(aux.stats['gate'])[~np.array(VISIBLE)])
    slopes = jax.jit(jax.grad(lambda v: jnp.sum(run(v)[0] ** 2)))(variables)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(slopes))


def test_temperature_divides_the_logits():
    params = drawn(build())
    kernels = {'gates_of_4': {'router': 2 * params['gates_of_4']['router']}}
    cool = program(build(temperature=0.5))({'params': params})[0]
    desired = program(build())({'params': params | kernels})[0]
    assert_close(cool, np.asarray(desired), 1e-6)


def test_state_of_the_routers_moves_by_the_load_of_what_is_seen():
    router = functools.partial(sigmoid, k=1, balance=SignRule(0.1))
    layer = build(router, VISIBLE)
    params = drawn(layer)
    state = initial(layer)['router_state']
    run = program(layer)
    variables = {'params': params, 'router_state': state}
    _, aux = program(layer, train=True)(variables)
    moved = update_router_state(state, aux.state_statistics)
    assert not run(variables)[1].state_statistics  # only in training
    for n, size in ((0, 3), (1, 2)):
        load = np.asarray(aux.stats['load'][n])[list(VISIBLE[n])]
        change = 0.1 * np.sign(load.mean() - load)
        bias = moved[f'gates_of_{size}']['bias']
        assert_close(bias, [change - change.mean()], 1e-6)
    # The bias decides: all to the expert that is favoured.
    favoured = lambda bias: jnp.zeros_like(bias).at[:, 0].set(9.0)
    variables['router_state'] = jax.tree.map(favoured, state)
    load = run(variables)[1].stats['load']
    np.testing.assert_array_equal(load, [[3, 0, 0, 0], [0, 2, 0, 0]])


@pytest.mark.parametrize('train', [False, True])
def test_padding_changes_nothing(train):
    # NaN there, or another number: the same to the last bit, state included.
    experts = network(num=E, batch_norm=BatchNorm)
    layer = MultiGate(experts, N, router=noisy_top_k, dropout=0.2)
    variables = initial(layer)
    run = program(layer, train=train, mask=MASK, mutable=['batch_stats'])
    desired = run(variables)
    for garbage in (np.nan, 1e3):
        x = np.where(MASK[:, None], X, np.float32(garbage))
        jax.tree.map(np.testing.assert_array_equal, run(variables, x), desired)


def test_nothing_live_is_finite():
    layer = build(visible=VISIBLE)
    params = drawn(layer)

    def objective(params):
        mask = jnp.zeros(B, bool)
        y, aux = layer.apply({'params': params}, X, mask=mask, train=True)
        return jnp.sum(y) + sum(aux.losses.values()), (y, aux)

    run = jax.jit(jax.grad(objective, has_aux=True))
    gradient, (y, aux) = run(params)
    for leaf in jax.tree.leaves((gradient, aux)):
        assert np.all(np.isfinite(leaf))
    assert not np.any(y)


def test_refusals():
    router = functools.partial(top_k, k=3)
    with pytest.raises(ValueError, match='k = 3, but gate 1 sees 2 experts'):
        jax.eval_shape(build(router, VISIBLE).init, KEY, X)
    blind = ((True,) * 4, (False,) * 4)
    for visible in (blind, VISIBLE[:1]):
        with pytest.raises(ValueError, match=r'visible must be \(2, 4\)'):
            jax.eval_shape(build(visible=visible).init, KEY, X)
    with pytest.raises(ValueError, match='2 gates for 3 tasks'):
        jax.eval_shape(MultiGate(network(num=E), 2, 3).init, KEY, X)

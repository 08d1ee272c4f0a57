"""The mixture layer against the loop oracle, in values and gradients."""

import functools
from typing import NamedTuple

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import subjaxprs

from moe.experts import MLP
from moe.layers import MoE
from moe.layers.auxiliary import load_balance
from moe.routing import top_k
from tests.reference import layer as reference
from tests.reference import routing as reference_routing
from tests.reference import scenarios
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow

DISPATCHERS = ['onehot', 'indexed', 'grouped']
COEFFICIENTS = {'load_balance': 0.7, 'router_z': 0.3}


class Cell(NamedTuple):
    """One compiled layer; masks, loads and numbers are its inputs."""

    dispatcher: str
    k: int
    factor: str | None
    activation: str
    use_bias: bool
    renormalize: bool = True
    scope: str = 'global'
    num_experts: int = 5

    def slots(self):
        return reference_routing.capacity(
            scenarios.SIZE, self.num_experts, self.k, self.factor
        )

    def options(self):
        """The same for the oracle."""
        return {
            'k': self.k,
            'renormalize': self.renormalize,
            'slots': self.slots() if self.factor else None,
            'activation': self.activation,
            'scope': self.scope,
        }

    def problem(self, scenario, **options):
        return scenarios.problem(
            scenario,
            num_experts=self.num_experts,
            activation=self.activation,
            use_bias=self.use_bias,
            **options,
        )


def cells():
    """Every dispatcher meets every (K, factor), and most (activation, bias).

    The capacity factor .5 leaves C = ceil(6*K*.5/5) = 1, 2, 2, 3 slots for
    K = 1, 2, 3, 4: room for 5C <= 5, 10, 10, 15 of a full group's 6K = 6, 12,
    18, 24 assignments, so some are always dropped.
    """
    selections = [(k, f) for k in (1, 2, 3, 4) for f in (None, '.5')]
    activations = ['relu', 'gelu', 'silu', 'swiglu', 'geglu']
    forms = [(a, b) for b in (False, True) for a in activations]
    for j, dispatcher in enumerate(DISPATCHERS):
        for i, selection in enumerate(selections):
            yield Cell(
                dispatcher,
                *selection,
                *forms[(i + 3 * j) % len(forms)],
                renormalize=i % 3 != 2,
                scope='group' if i in (1, 2, 5, 6) else 'global',
            )


CELLS = list(cells())
# One expert, K = 1: C = clip(ceil(6*1*.5/1), 1, 6) = 3 of 6 tokens fit.
SINGLE = [Cell(e, 1, '.5', 'swiglu', True, num_experts=1) for e in DISPATCHERS]
NARROW = [
    Cell(e, *selection)
    for e in DISPATCHERS
    for selection in [(1, None, 'relu', False), (3, '.5', 'geglu', True)]
]


def name_of(cell):
    return '-'.join(map(str, cell[:5]))


def build(cell, dtype=jnp.float32, **options):
    balance = functools.partial(load_balance, scope=cell.scope)
    return MoE(
        MLP(
            hidden=scenarios.HIDDEN,
            num_experts=cell.num_experts,
            activation=cell.activation,
            use_bias=cell.use_bias,
            dtype=dtype,
        ),
        router=functools.partial(top_k, k=cell.k, renormalize=cell.renormalize),
        dispatcher=cell.dispatcher,
        capacity_factor=None if cell.factor is None else float(cell.factor),
        losses={'load_balance': balance},
        **options,
    )


@functools.lru_cache
def compiled(cell, dtype):
    """(y, aux) and the gradients of the oracle's objective."""
    layer = build(cell, dtype)

    def objective(x, params, mask, dy):
        y, aux = layer.apply(
            {'params': params}, x, mask=mask, train=True, record=True
        )
        total = jnp.sum(y.astype(jnp.float32) * dy)
        for name, weight in COEFFICIENTS.items():
            total += weight * aux.losses[name]
        return total, (y, aux)

    run = jax.jit(jax.grad(objective, argnums=(0, 1), has_aux=True))

    def call(problem):
        params = {'router': problem.router, 'experts': problem.experts}
        x = jnp.asarray(problem.x, dtype)
        out = run(x, params, problem.mask, problem.dy)
        (d_x, d_params), (y, aux) = jax.device_get(out)
        return y, aux, {'x': d_x, **d_params}

    return call


def check(cell, problem, dtype, tolerance, scale=None):
    """Everything against the oracle; routing is float32 in any dtype."""
    y, aux, gradients = compiled(cell, dtype)(problem)
    args = scenarios.float64(problem)
    inputs = (args.x, args.router, args.experts, args.mask, cell.options())
    desired = reference.layer(*inputs)
    # Padding is not routed anywhere: what its entries say does not count.
    live = np.broadcast_to(args.mask[:, None], desired.chosen.shape)
    chosen = np.asarray(aux.routing.expert)
    np.testing.assert_array_equal(chosen[live], desired.chosen[live])
    gates = np.asarray(aux.routing.weight)
    assert_close(gates[live], desired.gates[live], 2e-6)
    assert_close(dict(aux.losses), desired.losses, 2e-6)
    assert_close(dict(aux.stats), desired.stats, 2e-6)
    assert y.dtype == dtype
    assert_close(y, desired.y, tolerance)
    desired_gradients = reference.gradients(*inputs, args.dy, COEFFICIENTS)
    assert_close(gradients, desired_gradients, tolerance, scale=scale)
    return desired


# The scenarios of a cell are one test: one program, compiled once.
@pytest.mark.parametrize('cell', CELLS, ids=name_of)
def test_equals_the_loop(cell):
    for scenario in scenarios.SCENARIOS:
        desired = check(cell, cell.problem(scenario), jnp.float32, 5e-6)
        # The scenario is what it says it is.
        load, dropped = desired.stats['load'], desired.stats['dropped']
        if scenario == 'empty':
            assert load[0] == 0
        if scenario == 'overfull':
            assert load[1] == 5 / cell.k  # the first choice of all
        if cell.factor is None or scenario == 'nothing':
            assert dropped == 0
        elif scenario != 'empty':
            assert dropped > 0


@pytest.mark.parametrize('cell', SINGLE, ids=DISPATCHERS)
def test_single_expert(cell):
    for scenario in scenarios.SCENARIOS:
        desired = check(cell, cell.problem(scenario), jnp.float32, 5e-6)
        # One gate, p = 1; half of each full group's 6 tokens fit.
        if scenario == 'even':
            assert desired.stats['dropped'] == 0.5
            assert desired.losses['load_balance'] == 1


@pytest.mark.parametrize('cell', NARROW, ids=name_of)
def test_bfloat16(cell):
    # bfloat16 has 8 bits: a few roundings of 2^-8 each, of terms that may
    # cancel: so gradients are measured against dy's and x's scale, about 2.
    # The router's probabilities, losses and statistics stay float32 (`check`).
    for scenario in scenarios.SCENARIOS:
        problem = cell.problem(scenario, dtype=jnp.bfloat16)
        check(cell, problem, jnp.bfloat16, 2e-2, scale=2.0)
        routing = compiled(cell, jnp.bfloat16)(problem)[1].routing
        assert routing.logits.dtype == routing.probs.dtype == jnp.float32


def cell_of(dispatcher, factor):
    """An already compiled cell with K = 2."""
    (cell,) = [
        c
        for c in CELLS
        if (c.dispatcher, c.k, c.factor) == (dispatcher, 2, factor)
    ]
    return cell


@pytest.mark.parametrize('dispatcher', DISPATCHERS)
@hypothesis.settings(max_examples=8)
@hypothesis.given(seed=st.integers(0, 2**31))
def test_permuting_tokens_permutes_outputs(dispatcher, seed):
    # Nothing drops, so no token stands in another's way.
    cell = cell_of(dispatcher, None)
    problem = cell.problem('empty', seed=seed)
    order = np.random.default_rng(seed).permutation(scenarios.SIZE)
    y, aux, gradients = compiled(cell, jnp.float32)(problem)
    moved = problem._replace(x=problem.x[:, order], mask=problem.mask[:, order])
    moved = moved._replace(dy=problem.dy[:, order])
    y_moved, aux_moved, gradients_moved = compiled(cell, jnp.float32)(moved)
    assert_close(y_moved, y[:, order], 2e-6)
    assert_close(dict(aux_moved.losses), dict(aux.losses), 2e-6)
    gradients['x'] = gradients['x'][:, order]
    assert_close(gradients_moved, gradients, 5e-6)


@pytest.mark.parametrize('dispatcher', DISPATCHERS)
@hypothesis.settings(max_examples=8)
@hypothesis.given(seed=st.integers(0, 2**31))
def test_permuting_experts_changes_nothing(dispatcher, seed):
    # Drops included: places in a queue do not depend on the expert's number.
    cell = cell_of(dispatcher, '.5')
    problem = cell.problem('even', seed=seed)
    order = np.random.default_rng(seed).permutation(cell.num_experts)
    y, aux, gradients = compiled(cell, jnp.float32)(problem)
    moved = problem._replace(
        router=problem.router[:, order],
        experts={n: v[order] for n, v in problem.experts.items()},
    )
    y_moved, aux_moved, gradients_moved = compiled(cell, jnp.float32)(moved)
    assert_close(y_moved, y, 2e-6)
    stats = {**aux.stats, 'load': aux.stats['load'][order]}
    assert_close(dict(aux_moved.stats), stats, 2e-6)
    assert_close(dict(aux_moved.losses), dict(aux.losses), 2e-6)
    gradients['router'] = gradients['router'][:, order]
    gradients['experts'] = jax.tree.map(
        lambda v: v[order], gradients['experts']
    )
    assert_close(gradients_moved, gradients, 5e-6)


@pytest.mark.parametrize('factor', [None, '.5'])
@pytest.mark.parametrize('dispatcher', DISPATCHERS)
@hypothesis.settings(max_examples=5)
@hypothesis.given(seed=st.integers(0, 2**31))
def test_masked_token_influences_nothing(dispatcher, factor, seed):
    # Whatever stands in the padding, large numbers too: the same outputs,
    # losses, statistics and gradients to the last bit, and zeros for itself.
    cell = cell_of(dispatcher, factor)
    problem = cell.problem('empty', seed=seed)
    noise = np.random.default_rng(seed).normal(size=problem.x.shape)
    padding = np.where(problem.mask[..., None], problem.x, 1e3 * noise)
    one = compiled(cell, jnp.float32)(problem)
    two = compiled(cell, jnp.float32)(
        problem._replace(x=padding.astype(np.float32))
    )
    assert_close(two[0], one[0], 0)
    assert_close(dict(two[1].losses), dict(one[1].losses), 0)
    assert_close(dict(two[1].stats), dict(one[1].stats), 0)
    assert_close(two[2], one[2], 0)
    assert not np.any(two[0][~problem.mask])
    assert not np.any(two[2]['x'][~problem.mask])


@pytest.mark.parametrize('dispatcher', DISPATCHERS)
def test_expert_without_tokens_has_zero_gradients(dispatcher):
    cell = cell_of(dispatcher, None)
    gradients = compiled(cell, jnp.float32)(cell.problem('empty'))[2]
    for name, value in gradients['experts'].items():
        assert not np.any(value[0]), name
        assert np.all(np.isfinite(value)), name
        assert np.any(value[1:]), name


@pytest.mark.parametrize('dispatcher', DISPATCHERS)
def test_masks_and_loads_do_not_recompile(dispatcher):
    cell = cell_of(dispatcher, '.5')
    layer = build(cell)
    chex.clear_trace_counter()  # it counts by name

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(x, params, mask):
        return layer.apply({'params': params}, x, mask=mask)[0]

    for scenario in scenarios.SCENARIOS:
        problem = cell.problem(scenario)
        params = {'router': problem.router, 'experts': problem.experts}
        run(problem.x, params, problem.mask)


def largest_array(dispatcher):
    """Elements of the largest array on the way to values and gradients."""
    # G=2, S=16, D=F=4, E=16, K=2, C=16: all else is at most E*G*C*D = 2048
    # elements, and an array [G, S, E, C] is 2*16*16*16 = 8192.
    layer = MoE(MLP(hidden=4, num_experts=16), dispatcher=dispatcher)
    x = jnp.ones((2, 16, 4))
    params = jax.eval_shape(layer.init, jax.random.key(0), x)

    def value(params, x):
        y, aux = layer.apply(params, x)
        return jnp.sum(y) + aux.losses['load_balance']

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (v.aval.size for v in equation.outvars)
        for inner in subjaxprs(jaxpr):
            yield from sizes(inner)

    return max(sizes(jax.make_jaxpr(jax.grad(value))(params, x).jaxpr))


def test_only_onehot_holds_a_row_for_every_pair_of_token_and_slot():
    assert largest_array('onehot') >= 8192
    assert largest_array('indexed') <= 2048
    # In blocks of 32 rows: of 64 rows and 16 experts, no more than 18 of them.
    assert largest_array('grouped') <= 18 * 32 * 4

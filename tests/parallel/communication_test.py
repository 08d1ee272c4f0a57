"""Communication as pure functions, under `shard_map` and under `pmap`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from moe.dispatch import DISPATCHERS
from moe.parallel import COMMUNICATION, on_expert_devices, ragged
from moe.routing import expert_choice, top_k
from moe.types import Context
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow

N, G, S, D, E = 4, 8, 3, 2, 8
CASES = [
    ('none', 'indexed'),
    ('all_to_all', 'onehot'),
    ('all_to_all', 'indexed'),
    ('ragged', 'grouped'),
    ('gather', 'onehot'),
    ('gather', 'indexed'),
    ('gather', 'grouped'),
]
SLOTS = 1  # of S * K = 6 assignments of a group to 8 experts: some drop


def scaled(w, rows, sizes=None):
    """Experts `tanh(x * w[e])`."""
    if sizes is None:
        return jnp.tanh(rows * w[:, None])
    row = jnp.arange(len(rows))
    expert = jnp.searchsorted(jnp.cumsum(sizes), row, side='right')
    return jnp.tanh(rows * jnp.take(w, expert, axis=0, mode='clip'))


def problem(router=top_k):
    draw = np.random.default_rng(0)
    x = draw.standard_normal((G, S, D), np.float32)
    w = draw.standard_normal((E, D), np.float32)
    logits = draw.standard_normal((G, S, E), np.float32)
    mask = jnp.asarray(draw.random((G, S)) < 0.9)
    position = jnp.arange(G * S, dtype=jnp.int32).reshape(G, S)
    routing = router(jnp.asarray(logits), Context(mask, position))
    return x, w, routing, draw.standard_normal((G, S, D), np.float32)


def objective(execute, slots, x, w, routing, weight, dy):
    experts = functools.partial(scaled, w)
    routing = routing.replace(weight=weight)
    y, kept = execute(x, routing, experts, slots)
    return jnp.sum(y * dy), (y, kept)


def gradients(execute, slots):
    """Of tokens, experts and weights; and the outputs and what was kept."""
    return jax.grad(
        functools.partial(objective, execute, slots),
        argnums=(0, 1, 3),
        has_aux=True,
    )


@functools.cache
def alone(router, slots):
    x, w, routing, dy = problem(router)
    run = jax.jit(gradients(DISPATCHERS['indexed'], slots))
    return jax.device_get(run(x, w, routing, routing.weight, dy))


def mesh_of(**sizes):
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(AxisType.Auto,) * len(sizes),
        devices=jax.devices()[: np.prod(list(sizes.values()))],
    )


def check(found, desired):
    assert_close(found[1][0], desired[1][0], 1e-6)
    np.testing.assert_array_equal(found[1][1], desired[1][1])
    assert_close(found[0], desired[0], 1e-6)


@pytest.mark.parametrize('parts', [2, 3])
def test_in_parts(parts):
    # Of 3 rows of an expert in a group 2 and 1, or each on its own.
    check_over_a_mesh('all_to_all', 'indexed', overlap_degree=parts)


@pytest.mark.parametrize(('name', 'dispatcher'), CASES[1:])
def test_over_a_mesh(name, dispatcher):
    check_over_a_mesh(name, dispatcher)


def check_over_a_mesh(name, dispatcher, **options):
    # The gradient of the whole, experts split over 4 of 8 devices.
    communication = functools.partial(COMMUNICATION[name], **options)
    execute = communication(DISPATCHERS[dispatcher], 'expert')

    def split(x, routing, experts, slots):
        def run(w, x, routing):
            return execute(x, routing, functools.partial(scaled, w), slots)

        return on_expert_devices(run)(experts.args[0], x, routing)

    for router, slots in ((top_k, SLOTS), (top_k, None), (expert_choice, None)):
        x, w, routing, dy = problem(router)
        with jax.set_mesh(mesh_of(data=2, expert=N)):
            run = jax.jit(gradients(split, slots))
            found = run(x, w, routing, routing.weight, dy)
        check(jax.device_get(found), alone(router, slots))
    live = np.asarray(problem()[2].valid)
    assert not alone(top_k, SLOTS)[1][1][live].all()


@pytest.mark.filterwarnings('ignore:.*pmap.*:DeprecationWarning')
@pytest.mark.parametrize(('name', 'dispatcher'), CASES)
def test_under_pmap(name, dispatcher):
    # Each device differentiates its own part of the sum; experts are its own.
    x, w, routing, dy = problem()
    execute = COMMUNICATION[name](DISPATCHERS[dispatcher], 'expert')
    run = jax.pmap(
        gradients(execute, SLOTS),
        axis_name='expert',
        in_axes=(0, None if name == 'none' else 0, 0, 0, 0),
        devices=jax.devices()[:N],
    )
    split = lambda v: v.reshape(N, -1, *v.shape[1:])
    parts = jax.tree.map(split, (x, w, routing, routing.weight, dy))
    if name == 'none':  # every device has all experts
        parts = (parts[0], w, *parts[2:])
    (d_x, d_w, d_weight), (y, kept) = jax.device_get(run(*parts))
    if name == 'none':
        d_w = d_w.sum(0)
    join = lambda v, like: np.asarray(v).reshape(like.shape)
    found = (
        (join(d_x, x), join(d_w, w), join(d_weight, routing.weight)),
        (join(y, x), join(kept, routing.valid)),
    )
    check(found, alone(top_k, SLOTS))


@pytest.mark.parametrize(
    ('name', 'dispatcher'), [('all_to_all', 'grouped'), ('ragged', 'onehot')]
)
def test_layouts_that_cannot_travel(name, dispatcher):
    x, w, routing, _ = problem()
    execute = COMMUNICATION[name](DISPATCHERS[dispatcher], 'expert')
    with pytest.raises(ValueError, match=f'^{name}: needs '):
        execute(x, routing, functools.partial(scaled, w), None)


def test_buffers_for_fewer_rows():
    # 2 devices with 4 groups, 4 experts each, K = 1, all 12 tokens of each
    # device to experts 0 (the first 6) and 3 (the others), both of device 0.
    # 24 rows are sent to a device with a buffer of 4/3 of 12: all of the first
    # sender's, of the second's 4, which are those for expert 0.
    choice = np.tile(np.repeat([0, 3], 6), 2).reshape(G, S)
    logits = jnp.asarray(np.eye(E, dtype=np.float32)[choice] * 9)
    context = Context(jnp.ones((G, S), bool), jnp.zeros((G, S), jnp.int32))
    routing = top_k(logits, context, k=1)
    x, w, _, _ = problem()
    found = {}
    for factor in (4 / 3, 2.0, None):
        execute = ragged(DISPATCHERS['grouped'], 'expert', buffer_factor=factor)
        with jax.set_mesh(mesh_of(expert=2)):
            run = jax.jit(
                on_expert_devices(
                    lambda w, x, routing, f=execute: f(
                        x, routing, functools.partial(scaled, w), None
                    )
                )
            )
            found[factor] = jax.device_get(run(w, x, routing))
    y, kept = found[4 / 3]
    desired = np.arange(G * S) < 16
    assert kept[:, 0].ravel().tolist() == desired.tolist()
    full, everything = found[2.0]
    assert everything.all()
    assert_close(y, np.where(kept[:, 0, :, None], full, 0), 1e-6)
    assert_close(found[None][0], full, 1e-6)


def test_mesh_in_context_is_what_counts():
    # Devices without `expert` in their mesh: split over what there is.
    mesh = mesh_of(data=2, fsdp=2, expert=1)
    with jax.set_mesh(mesh):
        run = on_expert_devices(lambda w, x: x * jnp.sum(w))
        y = jax.jit(run)(np.ones((E, 1), np.float32), np.ones((G, D)))
    assert {s.data.shape for s in y.addressable_shards} == {(2, D)}
    np.testing.assert_array_equal(y, np.full((G, D), E))

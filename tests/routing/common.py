"""What the tests of the routers share: contexts, draws, and the comparison."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from moe.layers.auxiliary import auxiliary, summarize
from moe.routing import ROUTERS
from moe.types import Context, TokenChoice
from tests.reference import routers as reference
from tests.reference.compare import assert_close

G, S, E = 2, 6, 5
# A soft mixture has weights, and no assignments; a layer of its own.
ASSIGNING = [name for name in ROUTERS if name != 'soft']
KEY = jax.random.key(11)
SEEDS = range(5)
POSITION = jnp.arange(G * S, dtype=jnp.int32).reshape(G, S)
FULL = np.ones((G, S), bool)
# Tokens 0 and 4 of group 0, and the last three of group 1, are padding.
PADDED = np.array([[0, 1, 1, 1, 0, 1], [1, 1, 1, 0, 0, 0]], bool)


def register(monkeypatch, registry, name, entry):
    """Adds an entry to a registry, or changes one, while a test runs."""
    monkeypatch.setitem(registry._entries, name, entry)


def context(mask=FULL, shape=None, bias=None, **fields):
    """A context of tokens in order, of a grid of any shape."""
    if bias is not None:
        fields['state'] = {'bias': bias}
    if shape is None:
        return Context(jnp.asarray(mask), POSITION, **fields)
    position = jnp.arange(shape[0] * shape[1], dtype=jnp.int32)
    return Context(jnp.ones(shape, bool), position.reshape(shape), **fields)


def draw(seed, shape=(G, S, E)):
    """Logits whose order float32 cannot change."""
    rng = np.random.default_rng(seed)
    order = rng.permuted(np.broadcast_to(np.arange(shape[-1]), shape), axis=-1)
    return np.float32(0.5 * order + rng.uniform(-0.2, 0.2, shape) - 1)


@functools.cache
def compiled(router, **options):
    """The router as one program of (logits, context), for hashable options."""
    train = options.pop('train', False)

    def run(logits, context):
        return router(logits, context._replace(train=train), **options)

    return jax.jit(run)


def run(router, logits, ctx, **options):
    """A Routing as NumPy arrays; `train` is taken from the context."""
    program = compiled(router, train=ctx.train, **options)
    routing = program(logits, ctx._replace(train=None))
    return jax.device_get(routing)


def auxiliary_of(routing):
    """The Aux of a Routing of which nothing drops."""
    return auxiliary(summarize(routing), routing.valid)


_compiled = jax.jit(auxiliary_of)


def accounted(routing):
    """The same in NumPy."""
    return jax.device_get(_compiled(routing))


def assert_routes(routing, choose, mask, k, tolerance=1e-6):
    """Compares a token-choice Routing with `choose(g, s)` of each token."""
    size = mask.shape
    tokens = [[choose(g, s) for s in range(size[1])] for g in range(size[0])]
    desired = reference.assemble(tokens, mask, k)
    np.testing.assert_array_equal(routing.valid, desired['live'])
    live = desired['live']
    expert = np.where(live, routing.expert, 0)
    np.testing.assert_array_equal(expert, desired['expert'])
    weight = np.where(live, routing.weight, 0)
    assert_close(weight, desired['weight'], tolerance)
    assert_close(routing.probs, desired['probs'], tolerance)
    np.testing.assert_array_equal(routing.mask, mask)
    assert routing.expert.dtype == np.int32
    assert routing.weight.dtype == routing.probs.dtype == np.float32
    assert isinstance(routing, TokenChoice)
    return desired


def gradient(router, logits, ctx, **options):
    """Gradient by the logits of a sum of all weights, each times its own.

    The factors differ from expert to expert, so that weights that sum to a
    constant have gradients too.
    """

    def objective(logits):
        routing = router(logits, ctx, **options)
        factor = jnp.arange(1.0, 1 + logits.shape[-1])
        weight = jnp.where(routing.valid, routing.weight, 0)
        return jnp.sum(weight * factor[routing.assignment_expert()])

    return np.asarray(jax.jit(jax.grad(objective))(logits))

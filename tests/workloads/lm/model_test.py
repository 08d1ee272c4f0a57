"""The language model: causality, auxiliary losses, counts, dtypes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.parameters import declared
from moe.workloads.lm.model import LM, active_parameters
from tests import tiny
from tests.reference import model as reference
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow

TOKENS = np.random.default_rng(0).integers(0, 256, (6, 5), np.int32)


@functools.lru_cache
def initial(config):
    return tiny.parameters(LM(config).init, TOKENS)


@functools.lru_cache
def compiled(config, **options):
    """(logits, cache, aux) of the model's own or of other parameters."""

    @jax.jit
    def apply(params, tokens, **given):
        return LM(config).apply({'params': params}, tokens, **options, **given)

    return apply


def run(config, tokens=TOKENS, **given):
    return compiled(config)(initial(config), tokens, **given)


def test_equals_the_loops():
    config = tiny.model()
    double = jax.tree.map(np.float64, initial(config))
    desired = reference.logits(TOKENS, double, tiny.oracle_options(config))
    logits, cache, _ = run(config)
    assert_close(logits, desired, 1e-5)
    assert cache is None


def test_no_position_sees_a_later_token():
    # Dropless. Row i of the batch has another token at position i: the logits
    # before it stay as they are, those from it on change.
    config = tiny.model()
    rows = np.repeat(TOKENS[:1], 6, axis=0)
    for i in range(5):
        rows[i, i] = (rows[i, i] + 1) % 256
    logits = np.asarray(run(config, rows)[0])
    assert logits.dtype == np.float32
    changed = np.max(np.abs(logits[:5] - logits[5]), axis=-1)
    for i in range(5):
        np.testing.assert_allclose(changed[i, :i], 0, atol=1e-6)
        assert np.all(changed[i, i:] > 1e-4), i


def test_tied_embeddings_are_the_head():
    tied, untied = tiny.model({'tie_embeddings': True}), tiny.model()
    made = jax.eval_shape(LM(tied).init, jax.random.key(0), TOKENS)['params']
    assert sorted(made) == ['embedding', 'norm', 'stack']
    params = dict(initial(untied))
    assert params.pop('head').shape == (16, 256)
    same = {**params, 'head': params['embedding'].T}
    desired = compiled(untied)(same, TOKENS)[0]
    actual = compiled(tied)(params, TOKENS)[0]
    assert_close(actual, np.asarray(desired), 1e-6)
    other = compiled(untied)({**same, 'head': -same['head']}, TOKENS)[0]
    np.testing.assert_allclose(other, -desired, atol=1e-6)


# V = 256, D = 16, two layers. A layer has 4 * 16 * 16 = 1024 for attention,
# 32 for two norms, and 3 * 16 * 16 = 768 for each swiglu expert of F = 16,
# 64 for a router of 4, or 3 * 16 * 32 = 1536 dense. Outside the layers are
# 256 * 16 = 4096 for the embedding, as much for the head, 16 for the norm.
@pytest.mark.parametrize(
    ('changes', 'total', 'active'),
    [
        # 2 * (1024 + 32 + 64 + 4 * 768) + 2 * 4096 + 16, and a token uses two
        # of four experts and only looks the embedding up.
        ({}, 16592, 2 * (1024 + 32 + 64 + 2 * 768) + 4096 + 16),
        ({'tie_embeddings': True}, 12496, 2 * 2656 + 4096 + 16),
        # 2 * (1024 + 32 + 1536) + 2 * 4096 + 16, all of it but a look-up.
        ({'moe_every': 0}, 13392, 9296),
        # One layer of each: 1120 + 3072, 1056 + 1536.
        ({'moe_every': 2}, 14992, 1120 + 1536 + 1056 + 1536 + 4112),
        # The first one dense, and as many of each again: 4192 + 2656.
        (
            {'num_layers': 3, 'dense_layers': (0,)},
            14992 + 4192,
            1120 + 1536 + 1056 + 1536 + 4112 + 2656,
        ),
        (
            {'moe.router': {'name': 'top_k', 'k': 1, 'renormalize': True}},
            16592,
            2 * (1024 + 32 + 64 + 768) + 4112,
        ),
        # Biases of 16 + 16 + 16 an expert.
        ({'moe.experts.use_bias': True}, 16592 + 2 * 4 * 48, 9424 + 2 * 2 * 48),
    ],
    ids=str,
)
def test_active_parameters(changes, total, active):
    config = tiny.model(changes)
    made = declared(LM(config).init, jax.random.key(0), TOKENS)
    assert active_parameters(config, made) == (total, active)


def test_bfloat16():
    config = tiny.model({'dtype': 'bfloat16'})
    made = jax.eval_shape(LM(config).init, jax.random.key(0), TOKENS)['params']
    assert {x.dtype for x in jax.tree.leaves(made)} == {np.dtype('float32')}
    params = initial(tiny.model())

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def gradient(params):
        logits, _, aux = LM(config).apply(
            {'params': params}, TOKENS, record=True
        )
        loss = jnp.mean(jnp.square(logits)) + jnp.sum(aux.losses['router_z'])
        return loss, (logits, aux)

    (_, (logits, aux)), grads = gradient(params)
    # What is decided and reported is float32; [L, G, S, E] of the routers.
    floats = (logits, aux.losses, aux.stats, aux.routing.logits)
    assert {x.dtype for x in jax.tree.leaves(floats)} == {np.dtype('float32')}
    chex.assert_shape(aux.routing.logits, (2, 6, 5, 4))
    chex.assert_tree_all_finite(grads)
    chex.assert_trees_all_equal_dtypes(grads, params)
    # A bfloat16 has 8 bits, and the logits are of order 1.
    wide = compiled(tiny.model())(params, TOKENS)[0]
    np.testing.assert_allclose(logits, wide, atol=0.1)
    assert np.max(np.abs(logits - wide)) > 1e-5


def test_mask_reaches_the_mixtures():
    # Three of thirty tokens are padding: the routers do not count them.
    mask = np.ones((6, 5), bool)
    mask[0, 2:] = False
    config = tiny.model()
    aux = compiled(config, record=True)(initial(config), TOKENS, mask=mask)[2]
    np.testing.assert_array_equal(aux.routing.mask, np.stack([mask, mask]))
    # A load is the share of 27 tokens' 54 choices, times 4 experts.
    choices = np.asarray(aux.stats['load']) * 54 / 4
    np.testing.assert_allclose(choices, np.round(choices), atol=1e-5)
    np.testing.assert_allclose(np.sum(choices, axis=1), 54, rtol=1e-6)


def test_routing_is_recorded_on_demand():
    config = tiny.model({'num_layers': 4, 'moe_every': 2})
    for record in (True, False):
        model = functools.partial(LM(config).init_with_output, record=record)
        made = jax.eval_shape(model, jax.random.key(0), TOKENS)
        (logits, cache, aux), _ = made
        chex.assert_shape(logits, (6, 5, 256))
        assert cache is None
        chex.assert_shape(aux.stats['load'], (2, 4))  # layers 1 and 3
        assert (aux.routing is not None) == record
        if record:
            chex.assert_shape(aux.routing.expert, (2, 6, 2, 5))  # [L,G,K,S]


def test_jitter_follows_the_key_and_the_layer():
    # Both layers are the same and add nothing: without noise they route alike.
    config = tiny.model({'moe.jitter': 0.5})
    params = jax.tree.map(np.copy, initial(tiny.model()))
    block = params['stack']['layers']['block_0']
    for leaf in jax.tree.leaves(block):
        leaf[1] = leaf[0]
    for leaf in (block['attention']['out'], block['moe']['experts']['down']):
        leaf[:] = 0
    model = functools.partial(LM(config).apply, train=True, record=True)
    apply = jax.jit(
        lambda p, k: model({'params': p}, TOKENS, rngs={'router': k})
    )
    draw = lambda seed: apply(params, jax.random.key(seed))[2].routing.logits
    first = np.asarray(draw(1))
    again = np.asarray(draw(1))
    other = np.asarray(draw(2))
    np.testing.assert_array_equal(first, again)
    assert np.max(np.abs(first - other)) > 0.1
    assert np.max(np.abs(first[0] - first[1])) > 0.1
    mask = np.ones((6, 5), bool)
    still = compiled(tiny.model(), record=True)(params, TOKENS, mask=mask)[2]
    layers = still.routing.logits
    np.testing.assert_allclose(layers[0], layers[1], atol=1e-6)

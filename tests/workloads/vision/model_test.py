"""The vision transformer: its loops, its patches, padding, counts."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.config import ConfigError, override, parse
from moe.parameters import declared
from moe.workloads.lm.model import active_parameters
from moe.workloads.vision.model import ViT, ViTConfig
from moe.workloads.vision.workload import VisionConfig
from tests import tiny
from tests.reference import vision as reference
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow

# Four images of nine patches of 2 x 2 x 3 numbers.
IMAGES = np.random.default_rng(0).standard_normal((4, 6, 6, 3), np.float32)
LIVE = np.array([True, True, False, True])
VISION = {
    'image_size': 6,
    'channels': 3,
    'patch_size': 2,
    'num_classes': 5,
    'rope': None,
}


def model(changes=None):
    """A small `ViTConfig`; changes are by dotted name within it."""
    changes = {
        f'model.{k}': v for k, v in {**VISION, **(changes or {})}.items()
    }
    small = {
        name: value
        for name, value in tiny.SMALL.items()
        if name.startswith('model.') and name != 'model.tie_embeddings'
    }
    values = tiny.merged(small, changes)
    plain = override(VisionConfig, {'workload': 'vision'}, values.items())
    return parse(ViTConfig, plain['model'], 'config.model')


@functools.lru_cache
def initial(config):
    return tiny.parameters(ViT(config).init, IMAGES)


@functools.lru_cache
def compiled(config, **options):
    """(logits, aux) of the model's own or of other parameters."""

    @jax.jit
    def apply(params, images, **given):
        return ViT(config).apply({'params': params}, images, **options, **given)

    return apply


def run(config, images=IMAGES, **given):
    return compiled(config)(initial(config), images, **given)


def cut(images):
    return reference.patches(images, 2)


def assembled(patches):
    return np.float32(reference.assembled(patches, IMAGES.shape, 2))


@pytest.mark.parametrize(
    'changes',
    [
        {'moe.dispatcher': 'indexed'},
        {'moe.dispatcher': 'grouped'},
        {'pool': 'token', 'head_hidden': 7},
    ],
)
def test_equals_the_loops(changes):
    # Layer 0 dense, layer 1 a mixture; the third image is padding.
    config = model({'moe_every': 2, **changes})
    params = jax.tree.map(np.float64, initial(config))
    options = tiny.oracle_options(config)
    desired, (mixture,) = reference.logits(
        np.float64(IMAGES), params, 2, options, LIVE
    )
    logits, aux = run(config, mask=LIVE)
    assert_close(logits, desired, 1e-5)
    for name, value in mixture.losses.items():
        assert_close(aux.losses[name], [value], 1e-5, name=name)
    for name, value in mixture.stats.items():
        assert_close(aux.stats[name], [value], 1e-5, name=name)


def test_patches_of_the_oracle():
    # Pixel (i, j) of a 4 x 4 image has the channels 10 i + j and 100 more.
    i, j = np.mgrid[:4, :4]
    image = np.stack([10 * i + j, 10 * i + j + 100], axis=-1)[None]
    patches = reference.patches(image, 2)
    first = [0, 100, 1, 101, 10, 110, 11, 111]
    np.testing.assert_array_equal(patches[0, 0], first)
    np.testing.assert_array_equal(patches[0, :, 0], [0, 2, 20, 22])
    again = reference.assembled(patches, image.shape, 2)
    np.testing.assert_array_equal(again, image)


def test_order_is_in_the_position_embedding_alone():
    # Dropless: patches may go anywhere if their embeddings go with them.
    config, order = model(), [4, 0, 8, 2, 1, 7, 3, 6, 5]
    params = initial(config)
    moved = assembled(cut(IMAGES)[:, order])
    position = params['position_embedding'][order]
    both = {**params, 'position_embedding': position}
    apply = compiled(config)
    desired = np.asarray(apply(params, IMAGES)[0])
    assert_close(apply(both, moved)[0], desired, 1e-5)
    alone = apply(params, moved)[0]
    assert np.all(np.max(np.abs(alone - desired), axis=1) > 1e-3)


def test_every_patch_sees_every_other():
    # Row i of the batch has another patch i: all tokens of it change, those
    # before i and those after it.
    config, params = model({'moe_every': 0}), initial(model({'moe_every': 0}))

    @jax.jit
    def tokens(images):
        """What the norm gives to the mean, [B, S, D]."""
        (logits, _), state = ViT(config).apply(
            {'params': params},
            images,
            capture_intermediates=lambda module, _: module.path == ('norm',),
        )
        (normed,) = state['intermediates']['norm']['__call__']
        return logits, normed

    patches = np.repeat(cut(IMAGES[:1]), 10, axis=0)
    for i in range(9):
        patches[i, i] += 1
    images = np.float32(reference.assembled(patches, (10, 6, 6, 3), 2))
    logits, normed = (np.float64(a) for a in tokens(images))
    changed = np.max(np.abs(normed[:9] - normed[9]), axis=-1)
    assert np.all(changed > 1e-5)
    # The logits are of the mean over tokens.
    head, bias = (np.float64(params[n]) for n in ('head', 'head_bias'))
    assert_close(logits, np.mean(normed, axis=1) @ head + bias, 1e-6)


@pytest.mark.parametrize('executor', ['onehot', 'indexed', 'grouped'])
def test_padding_images_change_nothing(executor):
    # Whatever padding holds, the rest is as it would be without it.
    config = model({'moe.dispatcher': executor})
    logits, aux = run(config, IMAGES[LIVE])
    for value in (0.0, 1e3, np.nan):
        images = np.where(LIVE[:, None, None, None], IMAGES, np.float32(value))
        padded, same = run(config, images, mask=LIVE)
        assert_close(padded[LIVE], np.asarray(logits), 1e-5)
        assert_close(same.losses, jax.device_get(aux.losses), 1e-5)
        assert_close(same.stats, jax.device_get(aux.stats), 1e-5)
    # And it is the mask that does it.
    other = run(config, images=np.where(np.isnan(images), 1e3, images))[1]
    assert np.max(np.abs(other.stats['load'] - aux.stats['load'])) > 1e-3


def test_padding_takes_no_slot():
    # One group of 4 * 9 tokens with two choices, capacity factor 0.25: 4.5
    # slots, so 5, for each of 4 experts. The last image alone is valid: its
    # tokens have them all.
    changes = {
        'moe.num_groups': 1,
        'moe.capacity': {'name': 'factor', 'eval': 0.25, 'minimum': 4},
    }
    config = model(changes)
    only = np.array([False, False, False, True])
    _, aux = compiled(config, record=True)(initial(config), IMAGES, mask=only)
    valid = np.repeat(only, 9)[None]
    np.testing.assert_array_equal(aux.routing.mask, np.stack([valid, valid]))
    assert np.all(aux.stats['dropped'] > 0)
    for layer in range(2):
        experts = np.asarray(aux.routing.expert[layer, 0])[:, valid[0]]
        counts = np.bincount(experts.ravel(), minlength=4)
        dropped = 1 - np.sum(np.minimum(counts, 5)) / 18
        np.testing.assert_allclose(
            aux.stats['dropped'][layer], dropped, rtol=0, atol=1e-6
        )


@functools.lru_cache
def gradients(dtype='float32', remat='none'):
    config = model(
        {'dtype': dtype, 'remat': remat, 'moe.experts.use_bias': True}
    )
    labels = np.array([0, 4, 2, 1])

    @jax.jit
    @jax.grad
    def gradient(params, images):
        logits, aux = ViT(config).apply(
            {'params': params}, images, mask=LIVE, train=True
        )
        chosen = jax.nn.log_softmax(logits)[jnp.arange(4), labels]
        balance = jnp.mean(aux.losses['load_balance'])
        return 0.01 * balance - jnp.sum(jnp.where(LIVE, chosen, 0)) / 3

    return gradient(initial(model({'moe.experts.use_bias': True})), IMAGES)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_gradients_reach_all_parameters(dtype):
    grads = gradients(dtype)
    chex.assert_tree_all_finite(grads)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert leaf.dtype == np.float32
        # In every layer, at every position, for every class.
        rows = np.max(np.abs(leaf.reshape(len(leaf), -1)), axis=1)
        assert np.all(rows > 0), path


@pytest.mark.parametrize('remat', ['dots', 'full'])
def test_remat_changes_no_number(remat):
    assert_close(gradients(remat=remat), jax.device_get(gradients()), 2e-6)


def test_starts_undecided():
    # The head is 0 at first, the rest is not: patches of 12 numbers come with
    # a variance of 1 / 12, and positions with the one that the config says.
    assert model().position_std == 0.02  # ViT's
    config = model({'d_model': 256, 'position_std': 0.3})
    params = jax.jit(ViT(config).init)(jax.random.key(0), IMAGES)['params']
    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype('float32')}
    shapes = {
        'patches': (12, 256),
        'position_embedding': (9, 256),
        'head': (256, 5),
        'head_bias': (5,),
    }
    assert sorted(params) == sorted([*shapes, 'stack', 'norm'])
    for name, shape in shapes.items():
        assert params[name].shape == shape
        assert np.any(params[name]) != name.startswith('head')
    # 3072 and 2304 draws: 5 % is four standard errors of a deviation.
    np.testing.assert_allclose(np.std(params['patches']), 12**-0.5, rtol=0.05)
    np.testing.assert_allclose(
        np.std(params['position_embedding']), 0.3, rtol=0.06
    )


def test_bfloat16():
    config = model({'dtype': 'bfloat16'})
    params = initial(model())
    logits, aux = compiled(config, record=True)(params, IMAGES)
    floats = (logits, aux.losses, aux.stats, aux.routing.logits)
    assert {x.dtype for x in jax.tree.leaves(floats)} == {np.dtype('float32')}
    # A bfloat16 has 8 bits, and the logits are of order 1.
    wide = compiled(model())(params, IMAGES)[0]
    np.testing.assert_allclose(logits, wide, rtol=0, atol=0.1)
    assert np.max(np.abs(logits - wide)) > 1e-5


def test_routing_is_recorded_on_demand():
    config = model({'num_layers': 4, 'moe_every': 2})
    for record in (True, False):
        made = functools.partial(ViT(config).init_with_output, record=record)
        (logits, aux), _ = jax.eval_shape(made, jax.random.key(0), IMAGES)
        chex.assert_shape(logits, (4, 5))
        chex.assert_shape(aux.stats['load'], (2, 4))  # layers 1 and 3
        assert (aux.routing is not None) == record
        if record:
            chex.assert_shape(aux.routing.expert, (2, 4, 2, 9))  # [L,G,K,S]


def test_jitter_is_of_training():
    vit = ViT(model({'moe.jitter': 0.5}))
    params = initial(model())

    @functools.partial(jax.jit, static_argnames='train')
    def draw(seed, train):
        rngs = {'router': jax.random.key(seed)}
        return vit.apply({'params': params}, IMAGES, train=train, rngs=rngs)

    first, again, other = (np.asarray(draw(s, True)[0]) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.max(np.abs(first - other)) > 1e-3
    still = [np.asarray(draw(s, False)[0]) for s in (1, 2)]
    np.testing.assert_array_equal(*still)


def test_dense_model_has_no_aux():
    init = ViT(model({'moe_every': 0})).init_with_output
    (logits, aux), _ = jax.eval_shape(init, jax.random.key(0), IMAGES)
    chex.assert_shape(logits, (4, 5))
    assert aux is None


# D = 16, two layers. A layer has 1024 for attention, 32 for two norms, 64 for
# a router of 4 and 768 for each expert of F = 16, or 1536 dense, as in
# `lm_test`. Outside are 12 * 16 = 192 for the patches, 16 for the norm and
# 16 * 5 + 5 = 85 for the head, and 9 * 16 = 144 of positions, only added.
@pytest.mark.parametrize(
    ('changes', 'total', 'active'),
    [
        (
            {},
            2 * (1024 + 32 + 64 + 4 * 768) + 192 + 16 + 85 + 144,
            2 * (1024 + 32 + 64 + 2 * 768) + 192 + 16 + 85,
        ),
        (
            {'moe_every': 0},
            2 * (1024 + 32 + 1536) + 192 + 16 + 85 + 144,
            2 * (1024 + 32 + 1536) + 192 + 16 + 85,
        ),
        # One patch of 6 * 6 * 3 numbers.
        (
            {'moe_every': 0, 'patch_size': 6},
            2 * (1024 + 32 + 1536) + 108 * 16 + 16 + 85 + 16,
            2 * (1024 + 32 + 1536) + 108 * 16 + 16 + 85,
        ),
    ],
    ids=str,
)
def test_active_parameters(changes, total, active):
    config = model(changes)
    made = declared(ViT(config).init, jax.random.key(0), IMAGES)
    assert active_parameters(config, made) == (total, active)


@pytest.mark.parametrize(
    'shape', [(4, 4, 9, 3), (4, 6, 6, 1), (4, 12, 3, 3), (4, 12, 12, 3)]
)
def test_other_images_are_refused(shape):
    # Of (4, 9, 3) and (12, 3, 3) the pixels would be as many.
    with pytest.raises(ValueError, match=re.escape('not (6, 6, 3)')):
        jax.eval_shape(ViT(model()).init, jax.random.key(0), np.zeros(shape))


@pytest.mark.parametrize(
    ('changes', 'field', 'allowed'),
    [
        ({'patch_size': 4}, 'patch_size', 'a divisor of image_size (6)'),
        ({'patch_size': 12}, 'patch_size', 'a divisor of image_size (6)'),
        ({'patch_size': 0}, 'patch_size', 'at least 1'),
        ({'image_size': 0}, 'image_size', 'at least 1'),
        ({'channels': 0}, 'channels', 'at least 1'),
        ({'num_classes': 0}, 'num_classes', 'at least 1'),
        ({'moe_every': 3}, 'moe_every', 'at most num_layers (2); 0 for none'),
    ],
    ids=str,
)
def test_refused(changes, field, allowed):
    message = f'^{re.escape(f"config.model.{field} = ")}.*{re.escape(allowed)}$'
    with pytest.raises(ConfigError, match=message):
        model(changes)


def test_patches_are_as_many_as_positions():
    assert model().num_patches == 9
    assert model({'patch_size': 3}).num_patches == 4
    assert model().num_tokens == 9
    assert model({'pool': 'token'}).num_tokens == 10

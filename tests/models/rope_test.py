"""Rotary positions and their scalings, against loops over pairs."""

import functools
import re

import jax.numpy as jnp
import numpy as np
import pytest

from moe.config import ConfigError
from moe.models.rope import ROPE_SCALINGS, Rope, rotate
from tests.reference import rope as reference
from tests.reference.compare import assert_close

YARN = {'factor': 4.0, 'original_length': 16}
SCALINGS = [
    ('linear', {'factor': 3.0}),
    ('ntk', {'factor': 3.0}),
    # Of 6 pairs at theta 50: ends within a pair, at whole ones, and at one.
    ('yarn', YARN),
    ('yarn', {**YARN, 'truncate': False}),
    ('yarn', {**YARN, 'beta_fast': 1.5, 'beta_slow': 1.5, 'truncate': False}),
    ('yarn', {**YARN, 'mscale': 1.0, 'mscale_all_dim': 0.7}),
    ('yarn', {**YARN, 'mscale': 0.5, 'attention_factor': 1.3}),
    # Wavelengths from 6 to 164: short, between and long.
    (
        'llama3',
        {
            'factor': 8.0,
            'low_freq_factor': 1.0,
            'high_freq_factor': 4.0,
            'original_length': 64,
        },
    ),
]


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def rope_of(name, options, theta=50.0, **more):
    scaling = functools.partial(ROPE_SCALINGS[name], **options)
    return Rope(theta, scaling=scaling, **more)


@pytest.mark.parametrize(('share', 'width'), [(1.0, 6), (0.5, 12), (0.4, 12)])
@pytest.mark.parametrize('interleaved', [False, True])
def test_rotate(interleaved, share, width):
    # 1 row, positions 0, 3 and 40, 2 heads.
    x, position = normal(0, 1, 3, 2, width), [0, 3, 40]
    given = {'share': share, 'interleaved': interleaved}
    desired = np.zeros(x.shape)
    for s, h in np.ndindex(3, 2):
        desired[0, s, h] = reference.rotate(
            x[0, s, h], position[s], theta=50.0, **given
        )
    rope = Rope(50.0, **given)
    actual = rotate(jnp.asarray(x), jnp.array(position), rope)
    assert_close(actual, desired, 2e-6)
    # int(12 * 0.4) = 4 numbers turn.
    still = width - int(width * share)
    np.testing.assert_array_equal(
        actual[..., width - still :], x[..., width - still :]
    )


def test_a_single_pair_turns_by_one_radian_a_position():
    one = rotate(jnp.array([[[[1.0, 0.0]]]]), jnp.array([1]), Rope(7.0))
    np.testing.assert_allclose(one[0, 0, 0], [np.cos(1), np.sin(1)], rtol=1e-6)


@pytest.mark.parametrize(('name', 'options'), SCALINGS, ids=str)
def test_scalings(name, options):
    desired, factor = reference.frequencies(
        12, theta=50.0, scaling={'name': name, **options}
    )
    actual = ROPE_SCALINGS[name](50.0, 12, **options)
    np.testing.assert_allclose(actual.frequency, desired, rtol=1e-6)
    assert actual.factor == pytest.approx(factor, rel=1e-12)
    plain, _ = reference.frequencies(12, theta=50.0)
    assert np.max(np.abs(np.array(plain) / desired - 1)) > 0.5
    x, rope = normal(1, 1, 1, 1, 12), rope_of(name, options)
    turned = reference.rotate(
        x[0, 0, 0],
        9,
        theta=50.0,
        scaling={'name': name, **options},
    )
    actual = rotate(jnp.asarray(x), jnp.array([9]), rope)
    assert_close(actual[0, 0, 0], turned, 2e-6)


def test_scalings_leave_what_they_say():
    # Linear scaling divides positions; NTK the longest wavelength alone.
    x = jnp.asarray(normal(2, 1, 1, 2, 8))
    third = rotate(x, jnp.array([12]), rope_of('linear', {'factor': 3.0}))
    np.testing.assert_allclose(
        third, rotate(x, jnp.array([4]), Rope(50.0)), rtol=1e-5, atol=1e-6
    )
    plain, wide = (
        ROPE_SCALINGS['ntk'](50.0, 8, factor=f).frequency for f in (1, 3)
    )
    np.testing.assert_allclose(wide[0], plain[0], rtol=1e-6)
    np.testing.assert_allclose(wide[-1], plain[-1] / 3, rtol=1e-6)
    # Pairs that turn rarely are interpolated wholly, fast ones not at all.
    slow = ROPE_SCALINGS['yarn'](
        1e4, 32, factor=4.0, original_length=4096
    ).frequency
    plain, _ = reference.frequencies(32, theta=1e4)
    np.testing.assert_allclose(slow[0], plain[0], rtol=1e-6)
    np.testing.assert_allclose(slow[-1], plain[-1] / 4, rtol=1e-6)


def test_only_distances_count():
    query, key = normal(1, 1, 1, 2, 8), normal(2, 1, 1, 2, 8)

    def product(at, other):
        a = rotate(jnp.asarray(query), jnp.array([at]), Rope(100.0))
        b = rotate(jnp.asarray(key), jnp.array([other]), Rope(100.0))
        return jnp.sum(a * b, axis=-1)

    near = product(9, 4)
    np.testing.assert_allclose(product(22, 17), near, atol=1e-5)
    np.testing.assert_allclose(product(5, 0), near, atol=1e-5)
    assert np.max(np.abs(product(9, 5) - near)) > 0.1
    assert np.max(np.abs(product(4, 9) - near)) > 0.1


def test_rotate_keeps_lengths_and_the_dtype():
    x = normal(3, 2, 5, 3, 4)
    turned = rotate(jnp.asarray(x), jnp.arange(5), Rope())
    norm = functools.partial(np.linalg.norm, axis=-1)
    np.testing.assert_allclose(norm(turned), norm(x), rtol=1e-6)
    np.testing.assert_array_equal(turned[:, 0], x[:, 0])
    small = rotate(jnp.asarray(x, jnp.bfloat16), jnp.arange(5), Rope())
    assert small.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (
            lambda: rope_of('yarn', YARN, theta=1.0).check(8),
            'rope.theta = 1.0: must be greater than 1.0 for yarn',
        ),
        (lambda: Rope(share=1.5), 'share = 1.5: must be at most 1.0'),
        (
            lambda: Rope(share=0.4).width(8),
            'rope.share = 0.4: must be a part of the 8 numbers of a head that '
            'is even',
        ),
        (
            lambda: ROPE_SCALINGS['ntk'](50.0, 2, factor=2.0),
            "rope.scaling.name = 'ntk': must be an option of heads of which 4",
        ),
        (
            lambda: ROPE_SCALINGS['llama3'](50.0, 8, low_freq_factor=4.0),
            'rope.scaling.low_freq_factor = 4.0: must be less than',
        ),
    ],
)
def test_refused(make, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make()

"""Decoding with a cache against the whole sequence at once."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.capacity import CapacityFactor, Dropless
from moe.workloads.lm.generate import generate
from moe.workloads.lm.model import LM
from tests import tiny

pytestmark = pytest.mark.slow

PROMPT = np.random.default_rng(1).integers(0, 256, (3, 4), np.int32)
LENGTH = 6
KEY = jax.random.key(7)


@functools.lru_cache
def config():
    """Half of the slots that a balanced load needs: many tokens drop.

    More would on a mesh, for lack of receive buffers.
    """
    return tiny.model(
        {
            'num_kv_heads': 1,
            'moe.capacity': {
                'name': 'factor',
                'train': 0.5,
                'eval': 0.5,
                'minimum': 1,
            },
            'moe.dispatcher': 'grouped',
            'moe.communication': {'name': 'ragged', 'buffer_factor': 1.0},
        }
    )


@functools.lru_cache
def variables():
    # Larger logits than at the start, so that no two tokens nearly tie.
    return {'params': tiny.parameters(LM(config()).init, PROMPT, scale=0.5)}


@functools.lru_cache
def forward(factor):
    """The uncached logits with a capacity factor, None to drop nothing."""
    capacity = CapacityFactor(0.5, factor, 1) if factor else Dropless()
    layer = dataclasses.replace(config().moe, capacity=capacity)
    model = LM(dataclasses.replace(config(), moe=layer))
    apply = jax.jit(lambda variables, tokens: model.apply(variables, tokens)[0])
    return functools.partial(apply, variables())


def continuation(key=KEY, top=0, temperature=1.0):
    return np.asarray(
        generate(
            config(),
            variables(),
            jnp.asarray(PROMPT),
            key,
            length=LENGTH,
            top=top,
            temperature=temperature,
        )
    )


def following(text, factor=None):
    """Logits of the tokens of a continuation, given all those before."""
    whole = np.concatenate([PROMPT, text], axis=1)
    logits = forward(factor)(whole[:, :-1])
    return np.asarray(logits[:, PROMPT.shape[1] - 1 :])


def test_greedy_takes_the_likeliest_token_of_the_whole_forward_pass():
    # Causal and dropless, one pass over prompt and continuation holds the
    # logits of every step. With the config's own capacity they are others.
    text = continuation(temperature=0.0)
    chex.assert_shape(text, (3, LENGTH))
    assert text.dtype == PROMPT.dtype
    logits = following(text)
    np.testing.assert_array_equal(text, np.argmax(logits, axis=-1))
    best = np.sort(logits, axis=-1)[..., -2:]
    assert np.min(best[..., 1] - best[..., 0]) > 1e-4  # no close call
    dropped = following(text, factor=0.5)
    assert np.any(np.argmax(dropped, axis=-1) != text)


def test_top_1_is_greedy():
    greedy = continuation(temperature=0.0)
    np.testing.assert_array_equal(continuation(top=1), greedy)


def test_same_key_same_text():
    text = continuation()
    np.testing.assert_array_equal(continuation(), text)
    assert np.any(continuation(key=jax.random.key(8)) != text)


def test_top_2_draws_the_best_two():
    # So hot that both are as likely: of 18 draws, neither is never taken.
    text = continuation(top=2, temperature=1e6)
    best = np.argsort(-following(text), axis=-1)[..., :2]
    taken = np.sum(best == text[..., None], axis=(0, 1))
    assert np.sum(taken) == 3 * LENGTH
    assert np.all(taken > 0)


def test_a_single_token():
    made = jax.eval_shape(
        functools.partial(generate, config(), length=1),
        variables(),
        PROMPT,
        KEY,
    )
    assert (made.shape, made.dtype) == ((3, 1), np.int32)

"""Sampling from a language model with a key-value cache."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, Key

from moe.capacity import Dropless
from moe.models.transformer import empty_cache
from moe.parallel import none, replicated
from moe.workloads.lm.model import LM, LMConfig


def decoding(config: LMConfig) -> LMConfig:
    """Returns the config for decoding, without capacity or communication.

    Which tokens are dropped depends on the batch, so that decoding one token at
    a time would differ from the whole sequence; and a few tokens need not make
    groups for all devices.

    Args:
      config: config of the model.
    """
    layer = dataclasses.replace(
        config.moe,
        capacity=Dropless(),
        num_groups=1,
        communication=none,
    )
    return dataclasses.replace(config, moe=layer)


@functools.partial(jax.jit, static_argnames=('config', 'length', 'top'))
def generate(
    config: LMConfig,
    variables: dict,
    prompt: Int[Array, 'B P'],
    key: Key[Array, ''],
    *,
    length: int,
    temperature: float | Array = 1.0,
    top: int = 0,
) -> Int[Array, 'B {length}']:
    """Continues prompts, one token at a time.

    Args:
      config: config of the model.
      variables: variables of the model.
      prompt: token ids, int32, P >= 1.
      key: PRNG key.
      length: number of tokens to generate.
      temperature: divides the logits; 0 takes the likeliest token.
      top: number of likeliest tokens to draw from; 0 draws from all.

    Returns:
      The continuations, int32, without the prompt.
    """
    model = LM(decoding(config))
    batch, size = prompt.shape
    cache = empty_cache(config, batch, size + length)

    def choose(logits, key):
        if top:
            least = lax.top_k(logits, top)[0][:, -1:]
            logits = jnp.where(logits < least, -jnp.inf, logits)
        scaled = logits / jnp.maximum(temperature, 1e-6)
        drawn = jax.random.categorical(key, scaled)
        best = jnp.argmax(logits, axis=-1)
        return jnp.where(temperature > 0, drawn, best).astype(prompt.dtype)

    def step(carry, i):
        token, cache = carry
        logits, cache, _ = model.apply(
            variables, token[:, None], cache=cache, start=size + i
        )
        token = choose(logits[:, -1], jax.random.fold_in(key, i + 1))
        return (token, cache), token

    logits, cache, _ = model.apply(variables, prompt, cache=cache)
    first = choose(logits[:, -1], jax.random.fold_in(key, 0))
    _, rest = lax.scan(step, (first, cache), jnp.arange(length - 1))
    return replicated(jnp.concatenate([first[:, None], rest.T], axis=1))

"""The programs of generation: prompts are read, and tokens made in chunks.

B rows, P positions of the longest prompt, N tokens of a chunk, L mixture
layers, K experts a token.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from moe.models.attention import Cache
from moe.models.transformer import empty_cache
from moe.parallel import replicated, split_batch
from moe.routing import recorded_routes
from moe.workloads.lm.model import LM
from moe.workloads.lm.sampling import choose


class Chunk(NamedTuple):
    """The next tokens of the continuations.

    Attributes:
      token: ids, int32; the padding where a continuation has ended.
      counts: whether a token is of its continuation.
      stopped: whether the continuation has ended with a stop token.
      log_prob: logarithm of each token's probability by the softmax of the
        logits, without temperature, top and top_p; None unless recorded.
      routes: experts, int32, of the tokens that were read: of the prompts in
        the first chunk, M = P; after it of the token before each one, M = N.
        -1 where none was read; None unless recorded, or without mixtures.
    """

    token: Int[Array, 'B N']
    counts: Bool[Array, 'B N']
    stopped: Bool[Array, 'B']
    log_prob: Float[Array, 'B N'] | None
    routes: Int[Array, 'B M L K'] | None


class State(NamedTuple):
    """What is carried from token to token, beside the cache.

    Attributes:
      token: the newest token of each row, not read yet.
      position: its position.
      made: tokens made so far, of every row.
      stopped: whether a row has ended.
    """

    token: Int[Array, 'B']
    position: Int[Array, 'B']
    made: Int[Array, '']
    stopped: Bool[Array, 'B']


@functools.partial(
    jax.jit, static_argnames=('model', 'size', 'program', 'pad', 'record')
)
def prefill(
    model: LM,
    variables: Any,
    tokens: Int[Array, 'B P'],
    lengths: Int[Array, 'B'],
    keys: Key[Array, 'B'],
    numbers: Any,
    *,
    size: int,
    program: Any,
    pad: int,
    record: bool,
) -> tuple[tuple[Cache, ...], State, Chunk]:
    """Reads the prompts, and makes the first token of each.

    Args:
      model: the model.
      variables: its variables, the layers apart.
      tokens: token ids, int32, padded on the right.
      lengths: tokens of each prompt, int32; 0 for a row that is none.
      keys: PRNG key of each row.
      numbers: see `Sampling`.
      size: positions of the cache.
      program: see `Sampling`.
      pad: the token that ended rows emit.
      record: whether log probabilities and routes are kept.

    Returns:
      The cache, the state, and a chunk of one token.
    """
    batch, width = tokens.shape
    logits, cache, aux = model.apply(
        variables,
        tokens,
        cache=_split(empty_cache(model.config, batch, size, apart=True)),
        mask=jnp.arange(width) < lengths[:, None],
        at=jnp.maximum(lengths - 1, 0),
        record=record,
    )
    state = State(
        jnp.full(batch, pad, jnp.int32),
        lengths - 1,
        jnp.int32(0),
        lengths == 0,
    )
    state, made = _advance(state, logits, keys, numbers, program, pad, record)
    routes = _routes(aux, tokens.shape, record)
    made = made._replace(routes=routes)
    return _split(cache), state, replicated(made)


@functools.partial(
    jax.jit,
    static_argnames=('model', 'chunk', 'program', 'pad', 'record'),
    donate_argnames='cache',
)
def decode(
    model: LM,
    variables: Any,
    cache: tuple[Cache, ...],
    state: State,
    keys: Key[Array, 'B'],
    numbers: Any,
    count: Int[Array, ''],
    *,
    chunk: int,
    program: Any,
    pad: int,
    record: bool,
) -> tuple[tuple[Cache, ...], State, Chunk]:
    """Makes the next tokens of each row, until all have ended.

    Args:
      model: see `prefill`, as what is not here.
      variables: its variables, the layers apart.
      cache: the cache, whose memory is used again.
      state: the state.
      keys: PRNG key of each row.
      numbers: see `Sampling`.
      count: the number of tokens, at most `chunk`.
      chunk: N.
      program: see `Sampling`.
      pad: the token that ended rows emit.
      record: whether log probabilities and routes are kept.

    Returns:
      The cache, the state, and the chunk.
    """
    batch = len(state.token)

    def step(state, cache):
        logits, cache, aux = model.apply(
            variables,
            state.token[:, None],
            cache=cache,
            mask=~state.stopped[:, None],
            start=state.position,
            record=record,
        )
        state, made = _advance(
            state, logits, keys, numbers, program, pad, record
        )
        routes = _routes(aux, (batch, 1), record)
        return state, _split(cache), made._replace(routes=routes)

    def more(carry):
        i, state, _, _ = carry
        return (i < count) & ~jnp.all(state.stopped)

    def body(carry):
        i, state, cache, found = carry
        state, cache, made = step(state, cache)
        write = lambda old, new: lax.dynamic_update_slice_in_dim(
            old, new, i, axis=1
        )
        columns = found._replace(stopped=None), made._replace(stopped=None)
        found = jax.tree.map(write, *columns)._replace(stopped=made.stopped)
        return i + 1, state, cache, found

    like = jax.eval_shape(step, state, cache)[2]
    wide = lambda value: (
        lambda x: jnp.full((batch, chunk, *x.shape[2:]), value, x.dtype)
    )
    found = Chunk(
        wide(pad)(like.token),
        wide(False)(like.counts),
        state.stopped,
        jax.tree.map(wide(0.0), like.log_prob),
        jax.tree.map(wide(-1), like.routes),
    )
    _, state, cache, found = lax.while_loop(
        more, body, (jnp.int32(0), state, cache, found)
    )
    return cache, state, replicated(found)


def _advance(state, logits, keys, numbers, program, pad, record):
    """Draws the next token of each row; returns the state and a chunk."""
    temperature, top_p, stop = numbers
    logits = logits[:, 0]
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, state.made)
    token = choose(logits, keys, program, temperature, top_p)
    token = jnp.where(state.stopped, pad, token)
    ended = jnp.any(token[:, None] == stop, axis=1) | state.stopped
    log_prob = None
    if record:
        every = jax.nn.log_softmax(logits)
        log_prob = jnp.take_along_axis(every, token[:, None], axis=1)
        log_prob = jnp.where(state.stopped[:, None], 0.0, log_prob)
    made = Chunk(token[:, None], ~state.stopped[:, None], ended, log_prob, None)
    state = State(token, state.position + 1, state.made + 1, ended)
    return state, made


def _routes(aux, shape, record):
    if not record or aux is None:
        return None
    return recorded_routes(aux.routing, shape)


def _split(cache):
    return jax.tree.map(split_batch, cache)

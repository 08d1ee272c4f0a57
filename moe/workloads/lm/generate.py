"""Generation: batches of prompts of different lengths.

B prompts, L mixture layers, K experts a token.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from moe.capacity import Dropless
from moe.config import ConfigError
from moe.models.pattern import apart
from moe.parallel import communication_of, expert_axes_of, gather, none
from moe.parallel.mesh import BATCH_AXES, num_shards
from moe.workloads.lm.decode import Chunk, decode, prefill
from moe.workloads.lm.model import LM, LMConfig
from moe.workloads.lm.sampling import Sampling

SMALLEST = 16  # positions; widths of prompts and caches are powers of 2 from it


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


def _by_rows(config: LMConfig) -> LMConfig:
    """Returns the config for decoding where every row makes a group.

    Rows are split over the devices. Where the run has communication, each
    device gets all rows and multiplies those of its own experts.
    """
    own = communication_of(config.moe.communication)
    fits = expert_axes_of(own) == expert_axes_of(gather)
    if own is not none and fits:
        own = gather
    layer = dataclasses.replace(
        config.moe, capacity=Dropless(), num_groups=None, communication=own
    )
    return dataclasses.replace(config, moe=layer)


class Completion(NamedTuple):
    """The continuation of one prompt of S tokens by N tokens.

    Attributes:
      token: ids, int32, a stop token included.
      stopped: whether it ended with a stop token.
      log_prob: see `Chunk`; None unless recorded.
      routes: experts of the prompt and the continuation, as they are replayed,
        see `moe.routing.replay`: -1 for the last token, which was not read.
        None unless recorded, or without mixtures.
    """

    token: Int[np.ndarray, 'N']
    stopped: bool
    log_prob: Float[np.ndarray, 'N'] | None
    routes: Int[np.ndarray, 'S+N L K'] | None


class Generator:
    """Continues prompts with a model, whose parameters it keeps by layer.

    The tokens of a row are those that it has alone, whatever the other rows
    are, but for rounding errors: rows are padded on the right, the padding is
    not read, and no token is dropped for lack of capacity. On a mesh it is
    made and used inside `jax.set_mesh`.

    Args:
      config: config of the model.
      variables: variables of the model. Their layers are copied once, so that
        a step does not copy them out of the stack.
    """

    def __init__(self, config: LMConfig, variables: Any):
        self.config = config
        self._model = LM(_by_rows(config), apart=True)
        split = jax.jit(functools.partial(apart, config))
        self._variables = {
            name: {**tree, 'stack': split(tree['stack'])}
            if 'stack' in tree
            else tree
            for name, tree in variables.items()
        }

    def stream(
        self,
        prompts: Sequence[Any],
        key: Key[Array, ''],
        *,
        length: int,
        sampling: Sampling,
        pad: int = 0,
        chunk: int = 16,
        record: bool = False,
    ) -> Iterator[Chunk]:
        """Yields the continuations as they are made.

        The first chunk has one token. While a chunk is read, the next one is
        computed. What is drawn for a row follows from the key and its number.
        Programs are compiled for the number of prompts, and for widths of
        prompts and of the cache that are powers of 2.

        Args:
          prompts: token ids of each prompt, at least one.
          key: PRNG key.
          length: the most tokens to make of each row.
          sampling: how they are drawn.
          pad: the token that ended rows emit.
          chunk: tokens of a chunk.
          record: whether log probabilities and routes are kept.

        Yields:
          Chunks of NumPy arrays, until every row has ended.

        Raises:
          ConfigError: for a prompt that is empty or has other tokens, and for
            a `top` above the vocabulary.
        """
        tokens, lengths = self._padded(prompts, sampling)
        longest = int(lengths.max(initial=1))
        rules = {
            'program': sampling.program,
            'pad': pad,
            'record': record,
        }
        keys = _row_keys(key, rows=len(tokens))
        cache, state, made = prefill(
            self._model,
            self._variables,
            tokens,
            lengths,
            keys,
            sampling.numbers,
            size=_bucket(longest + length),
            **rules,
        )
        left, columns, ended = length - 1, None, False
        while left and not ended:
            count = min(chunk, left)
            cache, state, following = decode(
                self._model,
                self._variables,
                cache,
                state,
                keys,
                sampling.numbers,
                count,
                chunk=chunk,
                **rules,
            )
            left -= count
            found = _on_host(made, len(prompts), columns)
            ended = bool(found.stopped.all())
            yield found
            made, columns = following, count
        if not ended:
            yield _on_host(made, len(prompts), columns)

    def generate(
        self, prompts: Sequence[Any], key: Key[Array, ''], **options: Any
    ) -> list[Completion]:
        """Continues prompts.

        Args:
          prompts: token ids of each prompt, at least one.
          key: PRNG key.
          **options: options of `stream`.

        Returns:
          The continuation of each prompt.

        Raises:
          ConfigError: see `stream`.
        """
        chunks = list(self.stream(prompts, key, **options))
        return [_completion(chunks, i, len(p)) for i, p in enumerate(prompts)]

    def _padded(self, prompts, sampling):
        """Returns token ids [B, P] and lengths, with rows for all devices."""
        size = self.config.vocab_size
        if sampling.top > size:
            allowed = f'at most vocab_size ({size})'
            raise ConfigError('top', sampling.top, allowed)
        rows = [np.asarray(p).reshape(-1) for p in prompts]
        for row in rows:
            if not len(row):
                raise ConfigError('prompt', '', 'at least one token')
            if row.min() < 0 or row.max() >= size:
                wrong = row[(row < 0) | (row >= size)][0]
                allowed = f'tokens from 0 to {size - 1}'
                raise ConfigError('prompt', int(wrong), allowed)
        shards = num_shards(jax.sharding.get_abstract_mesh(), BATCH_AXES)
        lengths = np.zeros(-(-len(rows) // shards) * shards, np.int32)
        lengths[: len(rows)] = [len(row) for row in rows]
        width = _bucket(int(lengths.max(initial=1)))
        tokens = np.zeros((len(lengths), width), np.int32)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = row
        return tokens, lengths


def _bucket(size: int) -> int:
    return max(SMALLEST, 1 << (size - 1).bit_length())


@functools.partial(jax.jit, static_argnames='rows')
def _row_keys(key, *, rows):
    return jax.vmap(functools.partial(jax.random.fold_in, key))(
        jnp.arange(rows)
    )


def _on_host(chunk: Chunk, rows: int, count: int | None) -> Chunk:
    """Waits for a chunk; returns the prompts' rows and the columns made."""
    token, counts, stopped, *recorded = jax.device_get(chunk)
    cut: Any = lambda x: None if x is None else x[:rows, :count]
    return Chunk(cut(token), cut(counts), stopped[:rows], *map(cut, recorded))


def _completion(chunks: Sequence[Chunk], row: int, size: int) -> Completion:
    """Joins the chunks of one row, whose prompt has `size` tokens."""
    parts: list[Any] = [jax.tree.map(lambda x: x[row], c) for c in chunks]
    log_prob = routes = None
    if parts[0].log_prob is not None:
        log_prob = np.concatenate([c.log_prob[c.counts] for c in parts])
    if parts[0].routes is not None:
        own = [parts[0].routes[:size]]
        own += [c.routes[c.counts] for c in parts[1:]]
        routes = np.concatenate([*own, np.full_like(own[0][:1], -1)])
    return Completion(
        np.concatenate([c.token[c.counts] for c in parts]),
        bool(parts[-1].stopped),
        log_prob,
        routes,
    )


def continuation(
    generator: Generator,
    tokens: Int[np.ndarray, 'S'],
    length: int,
    *,
    span: int,
    seed: int,
    sampling: Sampling,
) -> Iterator[Int[np.ndarray, 'N']]:
    """Yields the tokens that continue a prompt, past the model's span too.

    The model is not trained on later positions than its span: of what reaches
    it, only the last half is read on.

    Args:
      generator: the generator.
      tokens: token ids of the prompt, at least one.
      length: the most tokens to make.
      span: positions that the model is trained on.
      seed: seed of the draws.
      sampling: how tokens are drawn.
    """
    key, end = jax.random.key(seed), len(tokens) + length
    while len(tokens) < end:
        window = tokens if len(tokens) < span else tokens[-(span // 2) :]
        stream = generator.stream(
            [window],
            jax.random.fold_in(key, len(tokens)),
            length=min(span - len(window), end - len(tokens)),
            sampling=sampling,
        )
        for chunk in stream:
            made = chunk.token[0][chunk.counts[0]]
            tokens = np.concatenate([tokens, made])
            yield made
        if chunk.stopped[0]:
            return

"""Which tokens the experts of a language model read, for reports.

T tokens, L mixture layers, E experts, K choices a token, N validation sets, M
tokens listed for an expert.
"""

import functools
import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from moe import files
from moe.parallel import replicated
from moe.types import TokenChoice
from moe.workloads.lm.data import Source
from moe.workloads.lm.data.tokens import Tokens
from moe.workloads.lm.model import LM

FILE = 'routing.npz'
SHOWN = 512  # tokens of all sets together that reports show one by one
COUNTED = 2**14  # tokens of all sets together that are counted
_LISTED = 8  # M


class Choices(NamedTuple):
    """The experts of T tokens.

    Attributes:
      expert: int32 [L, K, T], the first choice first; -1 for none.
      weight: float32 [L, K, T], their combine weights.
    """

    expert: Int[np.ndarray, 'L K T']
    weight: Float[np.ndarray, 'L K T']


def write_expert_use(
    folder: pathlib.Path,
    model: LM,
    variables: Any,
    sets: Mapping[str, Tokens],
    source: Source,
    length: int,
) -> None:
    """Writes `routing.npz`; all processes call it, the first one writes.

    It is not written for routers by which no token has a first choice.

    Args:
      folder: the run's folder.
      model: the model, without capacity.
      variables: its variables.
      sets: the tokens of the validation sets by name.
      source: the source that decodes tokens.
      length: S, tokens of a sequence.
    """
    count = max(1, SHOWN // len(sets) // length)
    pieces = {name: _middle(t, count, length) for name, t in sets.items()}
    shown = np.concatenate(list(pieces.values()))
    first = choices(model, variables, shown, count)
    if first is None:
        return
    moe, found = model.config.moe, {}
    levels = moe.num_expert_groups > 1
    num_experts = moe.num_expert_groups if levels else moe.num_experts
    for name, tokens in sets.items():
        spread = _spread(tokens, COUNTED // len(sets) // length, length)
        chosen = choices(model, variables, spread, count)
        assert chosen is not None  # as it was for the first
        found[name] = spread.reshape(-1), chosen.expert
    if jax.process_index():
        return
    ids = np.concatenate([ids for ids, _ in found.values()])
    expert = np.concatenate([e for _, e in found.values()], axis=-1)
    listed, share = _listed(expert, ids, num_experts)
    known, place = np.unique(listed, return_inverse=True)
    names = ['' if i < 0 else source.pieces(np.array([i]))[0] for i in known]
    numbers = [
        np.full(len(p) * length, i) for i, p in enumerate(pieces.values())
    ]
    with files.replacing(folder / FILE, 'wb') as file:
        np.savez_compressed(
            file,
            texts=np.array(source.pieces(shown.reshape(-1))),
            set_of=np.concatenate(numbers),
            expert=first.expert.astype(np.int32),
            weight=first.weight.astype(np.float32),
            sets=np.array(list(sets)),
            counted=np.array(len(ids)),
            load=np.stack([loads(e, num_experts) for _, e in found.values()]),
            together=np.stack([together(e, num_experts) for e in expert]),
            names=np.array(names),
            listed=place.reshape(listed.shape),
            share=share,
        )


def choices(
    model: LM, variables: Any, tokens: Int[np.ndarray, 'N S'], count: int
) -> Choices | None:
    """Returns the experts of every token of N sequences.

    Args:
      model: the model, without capacity.
      variables: its variables.
      tokens: token ids.
      count: sequences that are read at once.

    Returns:
      The choices, of a mixture of two levels the outer ones; None for routers
      by which no token has a first choice.
    """
    parts = []
    for start in range(0, len(tokens), count):
        batch = tokens[start : start + count]
        size = len(batch)
        if size < count:  # one program for all
            batch = np.concatenate(
                [batch, np.repeat(batch[:1], count - size, 0)]
            )
        part = _choices(model, variables, batch)
        if part is None:
            return None
        rows = jax.tree.map(lambda x, n=size: np.asarray(x)[..., :n, :], part)
        parts.append(jax.tree.map(_flat, rows))
    return Choices(
        *(np.concatenate(p, axis=-1) for p in zip(*parts, strict=True))
    )


def _flat(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(*rows.shape[:-2], -1)


@functools.partial(jax.jit, static_argnums=0)
def _choices(model, variables, tokens):
    """Returns experts and weights [L, K, N, S] of sequences [N, S]."""
    routing = model.apply(variables, tokens, record=True)[2].routing
    if isinstance(routing, tuple):  # of two levels, the outer one
        routing = routing[0]
    if not isinstance(routing, TokenChoice):
        return None
    expert = jnp.where(routing.valid, routing.expert, -1)
    grids = (expert, jnp.where(routing.valid, routing.weight, 0.0))
    # [L, G, K, S'] of groups, to the sequences.
    by_choice = (jnp.moveaxis(x, 1, 2) for x in grids)
    return replicated(
        tuple(x.reshape(*x.shape[:2], *tokens.shape) for x in by_choice)
    )


def loads(
    expert: Int[np.ndarray, 'L K T'], num_experts: int
) -> Float[np.ndarray, 'L E']:
    """Returns the share of the assignments of each expert, times E.

    Args:
      expert: the experts of the tokens; -1 for none.
      num_experts: E.
    """
    counts = np.stack([_counts(layer, num_experts) for layer in expert])
    total = np.maximum(counts.sum(axis=-1, keepdims=True), 1)
    return (counts * num_experts / total).astype(np.float32)


def _counts(expert: np.ndarray, num_experts: int) -> np.ndarray:
    return np.bincount(expert[expert >= 0], minlength=num_experts)


def together(
    expert: Int[np.ndarray, 'K T'], num_experts: int
) -> Int[np.ndarray, 'E E']:
    """Returns how many tokens each two experts have in common.

    Args:
      expert: the experts of the tokens in a layer; -1 for none.
      num_experts: E.

    Returns:
      Counts, on the diagonal the tokens of an expert.
    """
    chosen = np.zeros((expert.shape[-1], num_experts), np.float32)
    for row in expert:
        there = row >= 0
        chosen[np.flatnonzero(there), row[there]] = 1.0
    return (chosen.T @ chosen).astype(np.int32)


def _listed(
    expert: Int[np.ndarray, 'L K T'],
    ids: Int[np.ndarray, 'T'],
    num_experts: int,
) -> tuple[Int[np.ndarray, 'L E M'], Float[np.ndarray, 'L E M']]:
    """Returns `top_tokens` of every layer and expert."""
    found = [top_tokens(layer, ids, num_experts) for layer in expert]
    return np.stack([f[0] for f in found]), np.stack([f[1] for f in found])


def top_tokens(
    expert: Int[np.ndarray, 'K T'],
    ids: Int[np.ndarray, 'T'],
    num_experts: int,
    count: int = _LISTED,
) -> tuple[Int[np.ndarray, 'E M'], Float[np.ndarray, 'E M']]:
    """Returns the tokens that an expert reads more often than by chance.

    Of n(e, v) assignments of token v to expert e, n(e) and n(v) in all, and n
    altogether, those with the largest `n(e, v) log(n(e, v) n / (n(e) n(v)))`,
    their part of the mutual information of tokens and experts, if positive.

    Args:
      expert: the experts of the tokens in a layer; -1 for none.
      ids: the tokens.
      num_experts: E.
      count: M.

    Returns:
      The ids, -1 for none; and the share of each token's occurrences that the
      expert reads.
    """
    width = int(ids.max()) + 1
    there = expert >= 0
    tokens = np.broadcast_to(ids, expert.shape)[there]
    pairs, n = np.unique(
        expert[there].astype(np.int64) * width + tokens, return_counts=True
    )
    e, v = np.divmod(pairs, width)
    of_expert = np.bincount(e, n, num_experts)[e]
    of_token = np.bincount(v, n, width)[v]
    score = n * np.log(n * n.sum() / (of_expert * of_token))
    occurrences = np.bincount(ids, minlength=width)[v]
    order = np.lexsort((v, -score, e))
    order = order[score[order] > 1e-6]
    begin = np.searchsorted(e[order], np.arange(num_experts))
    rank = np.arange(len(order)) - begin[e[order]]
    order, rank = order[rank < count], rank[rank < count]
    listed = np.full((num_experts, count), -1, np.int64)
    share = np.zeros((num_experts, count), np.float32)
    listed[e[order], rank] = v[order]
    share[e[order], rank] = n[order] / occurrences[order]
    return listed, share


def _middle(tokens: Tokens, count: int, length: int) -> np.ndarray:
    """Returns consecutive sequences from the middle of a set, [N, S]."""
    count = max(1, min(count, len(tokens) // length))
    start = (len(tokens) - count * length) // 2
    piece = tokens[start : start + count * length]
    return np.asarray(piece, np.int32).reshape(count, length)


def _spread(tokens: Tokens, count: int, length: int) -> np.ndarray:
    """Returns evenly spaced whole sequences of a set, [N, S]."""
    there = len(tokens) // length
    step = math.ceil(there / max(count, 1))
    starts = range(0, there * length, step * length)
    rows = [tokens[start : start + length] for start in starts]
    return np.asarray(np.stack(rows), np.int32)

"""A packed document has the logits that it has alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.models.attention import positions_within
from moe.ops.attention import splash, xla
from moe.routing import ROUTERS
from moe.types import traits_of
from moe.workloads.lm.data.packing import Packed
from moe.workloads.lm.model import LM
from tests import tiny
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow

# Whose choice depends on the token alone: not on later tokens, or on a place in
# the batch.
BY_PLACE = {'random', 'round_robin'}
OPTIONS = {
    'group_limited': {'k': 2, 'expert_groups': 2, 'chosen_groups': 1},
}
BY_TOKEN = [
    name
    for name in ROUTERS
    if traits_of(ROUTERS[name]).looks_ahead != 'always' and name not in BY_PLACE
]
SIZES = (5, 1, 7)


def documents():
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, size).astype(np.int32) for size in SIZES]


def packed(length, pad_id=7):
    """All documents in a row, with padding: ids and segments [1, length]."""
    missing = length - sum(SIZES)
    ids = np.concatenate([*documents(), np.full(missing, pad_id, np.int32)])
    segments = np.repeat([1, 2, 3, 0], [*SIZES, missing])
    return ids[None], segments[None].astype(np.int32)


def test_positions_begin_anew():
    segments = np.array([[1, 1, 1, 2, 3, 3, 0, 0], [4, 4, 2, 2, 2, 2, 2, 2]])
    assert positions_within(jnp.asarray(segments)).tolist() == [
        [0, 1, 2, 0, 0, 1, 0, 1],
        [0, 1, 0, 1, 2, 3, 4, 5],
    ]


def program(config):
    """The model as a function of ids and segments, compiled once a shape."""
    model = LM(config)

    @jax.jit
    def run(variables, ids, segments):
        mask = None if segments is None else segments > 0
        out = model.apply(variables, ids, segments=segments, mask=mask)
        return out[0][0]

    return run


def variables_of(config):
    """Random parameters, and the routers' states."""
    ids = np.zeros((1, 2), np.int32)
    model = LM(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0), ids)
    zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), dict(shapes))
    return zeros | {'params': tiny.parameters(model.init, ids)}


def in_places(whole):
    """The logits of each document in a packed window."""
    ends = np.cumsum(SIZES)
    return np.split(np.asarray(whole), ends)[: len(SIZES)]


@pytest.mark.parametrize('router', BY_TOKEN)
def test_every_router_by_the_token(router):
    section = {'name': router, **OPTIONS.get(router, {})}
    config = tiny.model({'moe.router': section, 'num_layers': 1})
    variables, run = variables_of(config), program(config)
    ids, segments = packed(16)
    found = in_places(run(variables, ids, segments))
    for document, actual in zip(documents(), found, strict=True):
        # Alone at the beginning of a window, whose rest is padding.
        rest = (0, 16 - len(document))
        alone = run(
            variables,
            np.pad(document, rest)[None],
            np.pad(np.ones(len(document), np.int32), rest)[None],
        )
        assert_close(actual, np.asarray(alone)[: len(document)], 1e-5)
    # What the padding holds does not matter.
    other = in_places(run(variables, packed(16, 9)[0], segments))
    assert_close(np.concatenate(other), np.concatenate(found), 1e-5)


@pytest.mark.parametrize('kernel', ['xla', 'splash'])
def test_by_every_kernel(kernel):
    # Against a model without segments, of the document and nothing else.
    plain = tiny.model({'d_model': 64, 'num_layers': 1})
    kernels = {'splash': functools.partial(splash, interpret=True), 'xla': xla}
    config = dataclasses.replace(plain, attention=kernels[kernel])
    variables, length = variables_of(plain), {'xla': 16, 'splash': 128}[kernel]
    ids, segments = packed(length)
    found = in_places(program(config)(variables, ids, segments))
    alone = program(plain)
    for document, actual in zip(documents(), found, strict=True):
        desired = np.asarray(alone(variables, document[None], None))
        assert_close(actual, desired, 1e-5)
    if kernel == 'xla':  # without segments it sees the documents before it
        without = in_places(alone(variables, ids, None))
        assert np.abs(without[2] - found[2]).max() > 1e-3


def test_losses_of_a_batch():
    # The mean over the targets that follow within a document; the mixture sees
    # the last token of each, and no padding.
    config = tiny.parsed({'data.packing': 'documents'})
    workload = config.make_workload()
    variables = variables_of(config.model)
    ids, segments = packed(17)
    batch = Packed(np.uint8(ids), segments)
    out = jax.jit(workload.forward)(variables, batch)
    logits = program(config.model)(variables, ids[:, :-1], segments[:, :-1])
    total = count = 0
    for rows, document in zip(in_places(logits), documents(), strict=True):
        for row, target in zip(np.float64(rows), document[1:], strict=False):
            total += np.log(np.sum(np.exp(row - row.max()))) + row.max()
            total -= row[target]
            count += 1
    mean = out.means['loss']
    assert float(mean.count) == count == 4 + 0 + 6
    assert float(mean.sum) == pytest.approx(total, rel=1e-5)
    # Two experts a token, of the 13 that are no padding.
    np.testing.assert_allclose(out.aux.stats['experts_per_token'], 2)

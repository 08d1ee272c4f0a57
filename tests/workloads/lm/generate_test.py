"""Batches that are continued with a cache, against each prompt alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.capacity import CapacityFactor, Dropless
from moe.config import ConfigError
from moe.parallel import MeshConfig, make_mesh, parameter_shardings
from moe.parameters import declared
from moe.routing import recorded_routes
from moe.workloads.lm.generate import Generator
from moe.workloads.lm.model import LM
from moe.workloads.lm.sampling import Sampling
from tests import tiny
from tests.checkpoints.hf.goldens import imported

pytestmark = pytest.mark.slow

LENGTH, SPAN = 12, 32
KEY = jax.random.key(7)
GREEDY = Sampling(temperature=0.0)
# Both sides of a width of 8, and one alone.
SIZES = (4, 1, 9)
NEAR = 1e-4  # a gap between the two best logits that rounding errors may turn


def prompts(vocab_size=256):
    draw = np.random.default_rng(1)
    return [draw.integers(0, vocab_size, n, np.int32) for n in SIZES]


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
    init = LM(config()).init
    tokens = np.zeros((1, 4), np.int32)
    return {'params': tiny.parameters(init, tokens, scale=0.5)}


@functools.lru_cache
def generator():
    return Generator(config(), variables())


@functools.lru_cache
def greedy():
    """The likeliest continuations, with what is recorded, in three chunks."""
    return generator().generate(
        prompts(), KEY, length=LENGTH, sampling=GREEDY, chunk=4, record=True
    )


def uncached(config, variables, factor=None):
    """Logits and routes of one sequence, without a cache.

    With a capacity factor, or None to drop nothing.
    """
    capacity = CapacityFactor(0.5, factor, 1) if factor else Dropless()
    layer = dataclasses.replace(config.moe, capacity=capacity)
    model = LM(dataclasses.replace(config, moe=layer))

    @jax.jit
    def forward(variables, tokens, routes=None):
        logits, _, aux = model.apply(
            variables, tokens, record=True, routes=routes
        )
        return logits, recorded_routes(aux.routing, tokens.shape)

    def run(tokens, routes=None):
        # What follows does not matter to what is before.
        row = np.zeros((1, SPAN), np.int32)
        row[0, : len(tokens)] = tokens
        if routes is not None:
            rest = ((0, SPAN - len(routes)), (0, 0), (0, 0))
            routes = jnp.asarray(np.pad(routes, rest, constant_values=-1)[None])
        found = forward(variables, jnp.asarray(row), routes)
        return [np.asarray(x)[0, : len(tokens)] for x in found]

    return run


@functools.lru_cache
def alone():
    return uncached(config(), variables())


def one_by_one(run, prompt, length):
    """The likeliest tokens, and the gap to the second best of each."""
    tokens, gaps = prompt, []
    for _ in range(length):
        logits = run(tokens)[0][-1]
        second, best = np.sort(logits)[-2:]
        gaps.append(best - second)
        tokens = np.append(tokens, np.argmax(logits)).astype(np.int32)
    return tokens[len(prompt) :], np.array(gaps)


def assert_as_alone(found, run, given, length=LENGTH):
    """Tokens are equal, where no two logits nearly tie."""
    for prompt, one in zip(given, found, strict=True):
        wanted, gaps = one_by_one(run, prompt, length)
        near = np.flatnonzero(gaps < NEAR)
        assert not near.size, f'nearly tied at {near}: take other parameters'
        assert one.token.tolist() == wanted.tolist()


def test_tokens_are_those_of_each_prompt_alone_without_a_cache():
    assert_as_alone(greedy(), alone(), prompts())
    # With the config's own capacity they would be others.
    text = np.append(prompts()[2], greedy()[2].token)
    dropped = uncached(config(), variables(), 0.5)(text)[0].argmax(-1)
    assert np.any(dropped[:-1] != alone()(text)[0].argmax(-1)[:-1])


def test_tokens_of_a_published_model_are_those_of_each_prompt_alone():
    one = imported('qwen3_moe')
    model, given = one.config.model, prompts(one.config.model.vocab_size)
    found = Generator(model, one.variables).generate(
        given, KEY, length=6, sampling=GREEDY, chunk=4
    )
    assert_as_alone(found, uncached(model, one.variables), given, 6)


def test_what_is_recorded_is_that_of_the_whole_sequence():
    for prompt, one in zip(prompts(), greedy(), strict=True):
        tokens = np.append(prompt, one.token)
        logits, routes = alone()(tokens)
        every = np.asarray(jax.nn.log_softmax(logits))[len(prompt) - 1 : -1]
        wanted = np.take_along_axis(every, one.token[:, None], 1)[:, 0]
        np.testing.assert_allclose(one.log_prob, wanted, atol=1e-5)
        # The last token was not read.
        assert one.routes.shape == (len(tokens), 2, 2)
        np.testing.assert_array_equal(one.routes[:-1], routes[:-1])
        assert np.all(one.routes[-1] == -1)
        again, _ = alone()(tokens, one.routes)
        np.testing.assert_allclose(again[:-1], logits[:-1], atol=1e-5)


def test_a_stop_token_ends_its_row_alone():
    whole = greedy()
    # In the middle of row 1, and not in row 0.
    others = {*whole[0].token.tolist()}
    stop = next(t for t in whole[1].token[2:].tolist() if t not in others)
    ends = [
        next((i + 1 for i, t in enumerate(c.token) if t == stop), LENGTH)
        for c in whole
    ]
    assert ends[0] == LENGTH > ends[1]
    options = {
        'length': LENGTH,
        'sampling': dataclasses.replace(GREEDY, stop=(300, stop)),
        'pad': 5,
        'chunk': 4,
        'record': True,
    }
    chunks = list(generator().stream(prompts(), KEY, **options))
    assert [c.token.shape[1] for c in chunks] == [1, 4, 4, 3]
    token = np.concatenate([c.token for c in chunks], axis=1)
    counts = np.concatenate([c.counts for c in chunks], axis=1)
    for i, end in enumerate(ends):
        assert token[i, :end].tolist() == whole[i].token[:end].tolist()
        assert np.all(token[i, end:] == 5)
        assert counts[i].tolist() == [True] * end + [False] * (LENGTH - end)
        assert bool(chunks[-1].stopped[i]) == (token[i, end - 1] == stop)
    done = generator().generate(prompts(), KEY, **options)
    assert [len(c.token) for c in done] == ends
    assert [len(c.log_prob) for c in done] == ends
    sizes = np.add(SIZES, ends).tolist()
    assert [len(c.routes) for c in done] == sizes


def test_generation_ends_with_the_last_row():
    first = [int(c.token[0]) for c in greedy()]
    sampling = dataclasses.replace(GREEDY, stop=tuple(first))
    chunks = list(
        generator().stream(prompts(), KEY, length=LENGTH, sampling=sampling)
    )
    assert [c.token.shape for c in chunks] == [(3, 1)]
    assert chunks[0].stopped.all()


def drawn(prompts_=None, key=KEY, **options):
    found = generator().generate(
        prompts_ or prompts(), key, length=6, sampling=Sampling(**options)
    )
    return [c.token.tolist() for c in found]


def test_draws_follow_from_the_key_and_the_row():
    text = drawn()
    assert drawn() == text
    assert drawn(key=jax.random.key(8)) != text
    # Other rows do not matter.
    first, *others = prompts()
    assert drawn([first, *others[::-1]])[0] == text[0]


@pytest.mark.parametrize(
    'axes',
    [
        {'expert': 4, 'data': 2},
        pytest.param({'tensor': 2, 'fsdp': 2}, marks=pytest.mark.long),
    ],
)
def test_on_a_mesh_tokens_are_those_of_one_device(axes):
    mesh = make_mesh(MeshConfig(**axes), jax.devices())
    init, shape = LM(config()).init, jnp.zeros((1, 4), jnp.int32)
    parameters = declared(init, jax.random.key(0), shape)
    with jax.set_mesh(mesh):
        shardings = parameter_shardings(mesh, variables(), parameters)
        placed = jax.device_put(variables(), shardings)
        found = Generator(config(), placed).generate(
            prompts(), KEY, length=LENGTH, sampling=GREEDY, chunk=4, record=True
        )
    for one, wanted in zip(found, greedy(), strict=True):
        assert one.token.tolist() == wanted.token.tolist()
        np.testing.assert_array_equal(one.routes, wanted.routes)
        np.testing.assert_allclose(one.log_prob, wanted.log_prob, atol=1e-4)


@pytest.mark.parametrize(
    ('given', 'options', 'field'),
    [
        ([[1], []], {}, 'prompt'),
        ([[1, 256]], {}, 'prompt'),
        ([[1]], {'top': 257}, 'top'),
        ([[1]], {'top': -1}, 'top'),
        ([[1]], {'top_p': 0.0}, 'top_p'),
        ([[1]], {'temperature': -1.0}, 'temperature'),
    ],
)
def test_what_cannot_be_continued(given, options, field):
    with pytest.raises(ConfigError) as caught:
        generator().generate(given, KEY, length=1, sampling=Sampling(**options))
    assert caught.value.field == field

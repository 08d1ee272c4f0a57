"""A trained language model opened: logits, routing and samples."""

import jax
import numpy as np
import pytest

import moe
from moe.config import ConfigError
from moe.workloads.lm.model import LM
from tests import tiny
from tests.workloads.load_test import saved

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'run'
    return moe.load(saved(folder, tiny.plain({'model.moe_every': 2})))


def ids(text):
    return np.array([list(text.encode())], np.int32)


def test_logits_are_the_model_s(run):
    # Of a text, of one sequence and of several.
    model = LM(run.config.model)
    desired = jax.jit(model.apply)(run.variables, ids('a cat'))[0]
    assert run.model == model
    for inputs in ('a cat', ids('a cat')[0], ids('a cat')):
        found = run.logits(inputs)
        assert found.shape == (1, 5, run.config.model.vocab_size)
        np.testing.assert_allclose(found, desired, rtol=1e-5, atol=1e-5)
    both = run.logits(np.concatenate([ids('a cat'), ids('a dog')]))
    np.testing.assert_allclose(both[:1], desired, rtol=1e-5, atol=1e-5)


def test_routing_says_who_goes_where_with_what_weight(run):
    # One mixture layer of four experts, two for each token.
    (layer,) = run.routing('a cat')
    assert layer.place == 'layer_1'
    assert layer.weight.shape == layer.chosen.shape == (1, 5, 4)
    assert (layer.chosen.sum(axis=-1) == 2).all()
    np.testing.assert_allclose(layer.weight.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(layer.weight != 0, layer.chosen)
    # As the layer itself records it.
    aux = jax.jit(run.model.apply, static_argnames='record')(
        run.variables, ids('a cat'), record=True
    )[2]
    expert = np.asarray(aux.routing.expert)[0, 0]  # [K, S]
    weight = np.asarray(aux.routing.weight)[0, 0]
    for s in range(5):
        np.testing.assert_allclose(
            layer.weight[0, s, expert[:, s]], weight[:, s], rtol=1e-6
        )


def test_a_dense_model_has_no_routing(tmp_path):
    plain = tiny.plain({'model.moe_every': 0, 'model.num_layers': 1})
    run = moe.load(saved(tmp_path / 'run', plain))
    assert run.routing('a cat') == []
    assert run.logits('a cat').shape == (1, 5, run.config.model.vocab_size)


def test_sample_continues_with_the_likeliest_tokens(run):
    # Greedy, the first token is the argmax of the logits after the prompt.
    text = run.sample('a cat', 1, temperature=0)
    best = int(np.argmax(run.logits('a cat')[0, -1]))
    assert text == bytes([best]).decode(errors='replace').replace('\0', '\n')


@pytest.mark.parametrize(
    ('prompt', 'options', 'field'),
    [('', {}, 'prompt'), ('a', {'top': 257}, 'top')],
)
def test_what_cannot_be_sampled(run, prompt, options, field):
    with pytest.raises(ConfigError) as caught:
        run.sample(prompt, **options)
    assert caught.value.field == field

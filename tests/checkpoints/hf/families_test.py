"""What published families compute, against transformers' own classes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.checkpoints.hf.files import (
    DTYPES,
    find_tensors,
    read_tensor,
    write_tensors,
)
from moe.checkpoints.hf.runs import complete_config
from moe.checkpoints.hf.write import plan
from moe.training.divergence import init_guard
from moe.training.step import init_state, make_train_step
from moe.workloads.lm.generate import Generator
from moe.workloads.lm.model import LM
from moe.workloads.lm.sampling import Sampling
from moe.workloads.registry import plain_of
from tests.checkpoints.hf.goldens import FAMILIES, FOLDER, golden, imported
from tests.docs.blocks import ROOT

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4  # of the greatest logit; measured: 2e-6
# The others are of `make test-long`. Of each kind of cache one:
CACHED = {'deepseek_v3', 'gpt_oss', 'qwen3_moe'}
# With the most parts, and with none of them:
TRAINED = {'deepseek_v3', 'llama'}


def some(names):
    """All families, those that are not named `long`."""
    marks = {
        name: () if name in names else pytest.mark.long for name in FAMILIES
    }
    return [pytest.param(name, marks=mark) for name, mark in marks.items()]


@functools.cache
def forward(name):
    """Logits and Routing of the tokens with their continuation, but its end."""
    one, wanted = imported(name), golden(name)
    model = LM(one.config.model)
    tokens = np.concatenate([wanted['tokens'], wanted['greedy']], axis=1)

    @jax.jit
    def run(variables, tokens):
        logits, _, aux = model.apply(variables, tokens, record=True)
        return logits, aux and aux.routing

    return run(one.variables, jnp.asarray(tokens[:, :-1], jnp.int32))


@pytest.mark.parametrize('name', FAMILIES)
def test_logits_are_those_of_transformers(name):
    wanted = golden(name)['logits']
    found = np.asarray(forward(name)[0])[:, : wanted.shape[1]]
    assert np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max()


@pytest.mark.parametrize('name', FAMILIES)
def test_the_same_experts_are_chosen_with_the_same_weights(name):
    wanted, routing = golden(name), forward(name)[1]
    layers = imported(name).config.model.moe_layers
    given = {int(n.rpartition('_')[2]) for n in wanted if 'topk_index' in n}
    assert set(layers) == given
    for i, layer in enumerate(layers):
        index = wanted[f'topk_index_{layer}']
        positions = index.shape[1]
        by_token = lambda x, i=i: np.moveaxis(np.asarray(x[i]), 1, 2)
        expert = by_token(routing.expert)[:, :positions]
        weight = by_token(routing.weight)[:, :positions]
        # Theirs are by falling weight, ours by falling score.
        order, theirs = np.argsort(expert, -1), np.argsort(index, -1)
        take = np.take_along_axis
        assert np.array_equal(take(expert, order, -1), take(index, theirs, -1))
        np.testing.assert_allclose(
            take(weight, order, -1),
            take(wanted[f'topk_weight_{layer}'], theirs, -1),
            rtol=1e-4,
        )


@pytest.mark.parametrize('name', FAMILIES)
def test_the_greedy_continuation_is_the_same_without_a_cache(name):
    wanted = golden(name)['greedy']
    logits = np.asarray(forward(name)[0])[:, -wanted.shape[1] :]
    assert logits.argmax(-1).tolist() == wanted.tolist()


@pytest.mark.parametrize('name', some(CACHED))
def test_the_greedy_continuation_is_the_same_with_a_cache(name):
    one, wanted = imported(name), golden(name)
    found = Generator(one.config.model, one.variables).generate(
        wanted['tokens'],
        jax.random.key(0),
        length=wanted['greedy'].shape[1],
        sampling=Sampling(temperature=0.0),
    )
    assert [c.token.tolist() for c in found] == wanted['greedy'].tolist()


@pytest.mark.parametrize('name', some(TRAINED))
def test_it_trains_on(name):
    one, wanted = imported(name), golden(name)
    shapes = jax.eval_shape(lambda: init_state(one.config))
    zeros = lambda x: jnp.zeros(x.shape, x.dtype)
    params = one.variables['params']
    state = shapes._replace(
        step=zeros(shapes.step),
        params=params,
        opt_state=jax.tree.map(zeros, shapes.opt_state),
        model_state={n: v for n, v in one.variables.items() if n != 'params'},
        key=jax.random.key(0),
        guard=init_guard(),
    )
    tokens = wanted['tokens']
    step = jax.jit(make_train_step(one.config))
    after, metrics = step(state, jnp.asarray(tokens, jnp.int32))
    # The first loss is that of transformers' logits.
    logits = np.float64(wanted['logits'][:, :-1])
    chosen = np.take_along_axis(logits, tokens[:, 1:, None], -1)[..., 0]
    loss = np.mean(np.log(np.sum(np.exp(logits), -1)) - chosen)
    np.testing.assert_allclose(metrics['train/loss'], loss, rtol=1e-5)
    # Every parameter has a gradient, and moves.
    assert metrics['train/skipped'] == 0
    for path, value in jax.tree.leaves_with_path(after.params):
        before = functools.reduce(lambda tree, k: tree[k.key], path, params)
        assert np.isfinite(value).all(), path
        assert not np.array_equal(value, before), path


@pytest.mark.parametrize('name', FAMILIES)
def test_export_gives_every_tensor_back_bit_for_bit(tmp_path, name):
    one = imported(name)
    values = {n: np.asarray(x) for n, x in one.leaves.items()}
    planned = plan(one.tensors, values, lambda _, own: own)
    write_tensors(tmp_path, planned, 100_000)
    theirs, ours = find_tensors(FOLDER / name), find_tensors(tmp_path)
    assert theirs.keys() == ours.keys()
    for tensor, stored in theirs.items():
        assert (stored.dtype, stored.shape) == ours[tensor][1:3]
        back = read_tensor(ours[tensor])
        assert read_tensor(stored).tobytes() == back.tobytes()


@pytest.mark.parametrize('name', FAMILIES)
def test_the_exported_config_says_the_same(name):
    one = imported(name)
    before, model = one.opened.config, plain_of(one.config)['model']
    written = complete_config(one.opened.family, model, before, 7)
    assert one.opened.family.read_config(written) == one.opened.model
    # Beyond what is read, nothing else is said, and nothing is lost.
    for field, value in before.items():
        if field not in ('torch_dtype', 'dtype'):
            assert _numbers(written.get(field)) == _numbers(value), field
    # Without the file it came from, in the form of transformers 5.
    alone = complete_config(one.opened.family, model, None, 512)
    assert 'rope_parameters' in alone
    assert one.opened.family.read_config(alone) == one.opened.model


def _numbers(value):
    """Returns a value in which what says nothing is absent."""
    if isinstance(value, dict):
        return {n: _numbers(v) for n, v in value.items()}
    return None if value == 0 and value is not False else value


def test_dtypes_of_the_goldens_are_float32():
    for name in FAMILIES:
        for stored in find_tensors(FOLDER / name).values():
            assert DTYPES[stored.dtype] == np.float32


def test_the_page_has_a_row_of_what_is_tested_here_for_each_family():
    page = (ROOT / 'docs' / 'how-to' / 'published-models.md').read_text()
    lines = [line for line in page.splitlines() if line.startswith('| `')]
    cells = [[c.strip(' `') for c in line.split('|')[1:-1]] for line in lines]
    rows = {name: rest for name, *rest in cells}
    assert sorted(rows) == FAMILIES
    for name, found in rows.items():
        mixtures = imported(name).config.model.moe_layers
        experts = 'yes' if mixtures else 'dense'
        assert found == ['yes', 'yes', experts, *['yes'] * 4]

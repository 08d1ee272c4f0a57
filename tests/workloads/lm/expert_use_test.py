"""What the experts read: counts by hand, and routing as the layers do it."""

import jax
import numpy as np
import pytest

from moe.workloads.lm import expert_use
from moe.workloads.lm.data.tokens import InMemory
from moe.workloads.lm.model import LM
from tests import tiny

# Two choices of five tokens among three experts; the last has only one.
EXPERT = np.array([[0, 0, 1, 2, 0], [1, 2, 0, 1, -1]])


def test_loads():
    # Of nine assignments expert 0 has four, 1 three, 2 two.
    (found,) = expert_use.loads(EXPERT[None], 3)
    np.testing.assert_allclose(found, [4 / 3, 1, 2 / 3], rtol=1e-6)


def test_together():
    found = expert_use.together(EXPERT, 3)
    np.testing.assert_array_equal(found, [[4, 2, 1], [2, 3, 1], [1, 1, 2]])


def test_top_tokens():
    # Token 7 is read by expert 1 alone, token 5 by expert 0 three of four
    # times; of eight assignments three are expert 0's and five expert 1's.
    ids = np.array([5, 5, 5, 5, 7, 7, 7, 7])
    expert = np.array([[0, 0, 0, 1, 1, 1, 1, 1]])
    listed, share = expert_use.top_tokens(expert, ids, 3, count=2)
    assert listed.tolist() == [[5, -1], [7, -1], [-1, -1]]
    np.testing.assert_allclose(share, [[0.75, 0], [1, 0], [0, 0]])


def test_order_of_top_tokens():
    # Both are read by expert 0 alone: the more frequent one comes first.
    ids = np.array([3, 4, 4, 6])
    expert = np.array([[0, 0, 0, 1]])
    listed, _ = expert_use.top_tokens(expert, ids, 2, count=2)
    assert listed.tolist() == [[4, 3], [6, -1]]
    listed, _ = expert_use.top_tokens(expert, ids, 2, count=1)
    assert listed.tolist() == [[4], [6]]


SMALL = {
    'd_model': 8,
    'moe.experts.hidden': 8,
    'num_layers': 1,
    'dense.hidden': 8,
}


@pytest.fixture(scope='module')
def model():
    config = tiny.model(SMALL)
    found = LM(config)
    params = tiny.parameters(found.init, np.zeros((1, 8), np.int32))
    return found, jax.device_put({'params': params})


def test_choices_are_those_of_the_layers(model):
    # Five sequences, two at once, of which the last batch is filled up.
    tokens = np.random.default_rng(0).integers(0, 256, (5, 8)).astype(np.int32)
    found = expert_use.choices(*model, tokens, 2)
    assert found.expert.shape == found.weight.shape == (1, 2, 40)
    lm, variables = model
    apply = jax.jit(lambda t: lm.apply(variables, t, record=True)[2].routing)
    routing = apply(tokens)
    # [L, G, S, E], of one group a sequence or of one of all.
    gates = np.asarray(jax.vmap(lambda r: r.gates())(routing))
    gates = gates.reshape(40, 4)
    for t in range(40):
        by_weight = np.argsort(-gates[t])[:2]
        np.testing.assert_array_equal(found.expert[0, :, t], by_weight)
        np.testing.assert_allclose(
            found.weight[0, :, t], gates[t, by_weight], rtol=1e-5
        )


def test_file(model, tmp_path):
    # Two sets, and whole sequences of eight tokens.
    source = tiny.parsed().data.source
    text = np.frombuffer(b'abcdefgh' * 6 + b'xyz', np.uint8)
    sets = {'one': InMemory(text), 'two': InMemory(text[:17])}
    expert_use.write_expert_use(tmp_path, *model, sets, source, 8)
    with np.load(tmp_path / expert_use.FILE) as saved:
        found = dict(saved)
    second = found['texts'][found['set_of'] == 1]
    assert ''.join(second) == 'abcdefghabcdefgh'
    assert np.bincount(found['set_of']).tolist() == [48, 16]
    assert found['counted'] == 48 + 16
    assert found['load'].shape == (2, 1, 4)
    np.testing.assert_allclose(found['load'].sum(axis=-1), 4, rtol=1e-5)
    assert found['together'].shape == (1, 4, 4)
    assert np.trace(found['together'][0]) == 2 * (48 + 16)
    names = found['names'][found['listed']]
    assert set(names.reshape(-1)) <= {'', *'abcdefgh'}
    assert np.all((names == '') == (found['share'] == 0))


def test_no_first_choice(tmp_path):
    with pytest.warns(UserWarning, match='later'):
        config = tiny.model(
            {
                **SMALL,
                'moe.router': 'expert_choice',
                'moe.allow_lookahead': True,
            }
        )
    model = LM(config)
    params = tiny.parameters(model.init, np.zeros((1, 8), np.int32))
    sets = {'': InMemory(np.arange(64, dtype=np.uint8))}
    source = tiny.parsed().data.source
    expert_use.write_expert_use(
        tmp_path, model, {'params': params}, sets, source, 8
    )
    assert list(tmp_path.iterdir()) == []

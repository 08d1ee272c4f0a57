"""Upcycled models against their dense ones, by loops in float64."""

import jax
import numpy as np
import pytest

from moe.checkpoints.__main__ import main
from moe.checkpoints.upcycle import Upcycling
from moe.config import ConfigError
from moe.training import history
from moe.training.checkpoint import Checkpoints, restore_run
from moe.training.folder import write_plain_config
from moe.workloads import registry
from moe.workloads.lm.model import LM
from tests import tiny
from tests.checkpoints import memory
from tests.reference import model as reference
from tests.training.written import contents

DENSE = {'model.moe_every': 0, 'model.dense.use_bias': True}
BIASED = {'model.moe.experts.use_bias': True}
TOKENS = np.array([[1, 7, 3, 250], [9, 9, 0, 31]])


def upcycled(changes, dense=DENSE, **options):
    """The two models, their parameters in float64, and the transform."""
    old = tiny.parsed(dense)
    new = tiny.parsed({**dense, 'model.moe_every': 1, **BIASED, **changes})
    params = memory.parameters(old.model)
    transform = Upcycling(memory.source(old, params), new.model, **options)
    found = memory.made(transform.make, memory.parameters(new.model))
    double = memory.double
    return old.model, new.model, double(params), double(found), transform


def logits(model, params):
    return reference.logits(TOKENS, params, tiny.oracle_options(model))


def block(params, name='moe'):
    return params['stack']['layers']['block_0'][name]


@pytest.mark.parametrize(
    'changes',
    [
        {'model.moe.experts.hidden': 32},
        # Parts of 16 of the 32 hidden units, two of them a token.
        {'model.moe.experts.hidden': 16, 'model.moe.num_experts': 6},
        # Two copies of four parts a token.
        {
            'model.moe.experts.hidden': 8,
            'model.moe.num_experts': 12,
            'model.moe.router.k': 8,
        },
        {'model.moe.experts.hidden': 32, 'model.moe_every': 2},
    ],
    ids=['copies', 'parts', 'parts_of_two', 'every_other_layer'],
)
def test_first_logits_are_the_dense_ones(changes):
    old, new, dense, found, transform = upcycled(changes)
    assert transform.exact
    want = logits(old, dense)
    np.testing.assert_allclose(logits(new, found), want, atol=1e-5)


def test_gates_that_do_not_sum_to_one():
    changes = {
        'model.moe.experts.hidden': 16,
        'model.moe.router.renormalize': False,
    }
    old, new, dense, found, transform = upcycled(changes)
    # A token's gates sum to less than 1, to another number for each token.
    assert not transform.exact
    assert np.abs(logits(new, found) - logits(old, dense)).max() > 1e-3
    # Of a router of zeros they are 1/E each: 2 of 4 sum to a half.
    old, new, dense, found, transform = upcycled(changes, router_scale=0.0)
    assert transform.exact
    assert transform.scale == pytest.approx(4.0)
    np.testing.assert_allclose(
        logits(new, found), logits(old, dense), atol=1e-5
    )


@pytest.mark.parametrize(
    ('shared', 'experts', 'parts'), [(8, 12, 2), (32, 32, 1), (32, 16, 2)]
)
def test_a_shared_network(shared, experts, parts):
    network = {'name': 'mlp', 'hidden': shared, 'use_bias': True}
    changes = {
        'model.moe.experts.hidden': experts,
        'model.moe.shared': {'network': network},
        'model.moe.router.k': parts,
    }
    _, new, dense, found, transform = upcycled(changes)
    assert transform.split.parts == parts
    # The oracle has no shared network: what both return is added here.
    x = tiny.numbers((3, 16), 0).astype(np.float64)
    mixture, mlp = block(found), block(dense, 'mlp')
    of = lambda tree, i: jax.tree.map(lambda v: v[i], tree)
    options = tiny.oracle_options(new)
    want, whole = [], of(mlp, 1)
    for row in x:
        want.append(reference.reference_experts.mlp(row, whole, 'swiglu'))
    moe = of(mixture['mixture'], 1)
    out = reference.layer(
        x[None], moe['router'], moe['experts'], np.ones((1, 3), bool), options
    )
    own = [
        reference.reference_experts.mlp(row, of(mixture['shared'], 1), 'swiglu')
        for row in x
    ]
    if parts == 1:  # a single gate is no constant: taken out
        assert not transform.exact
        return
    assert transform.exact
    np.testing.assert_allclose(out.y[0] + own, want, atol=1e-5)


def test_what_is_drawn_again():
    changes = {'model.moe.experts.hidden': 32}
    options = {'redraw': 0.25, 'seed': 3}
    _, _, dense, found, transform = upcycled(changes, **options)
    assert not transform.exact
    experts, mlp = block(found)['experts'], block(dense, 'mlp')
    sets = set()
    for layer, e in np.ndindex(2, 4):
        # The same 8 of 32 hidden units of each matrix, and no others.
        new = {n: experts[n][layer, e] for n in experts}
        old = {n: mlp[n][layer] for n in mlp}
        changed = np.any(new['up'] != old['up'], axis=0)
        assert changed.sum() == 8
        np.testing.assert_array_equal(
            np.any(new['gate'] != old['gate'], axis=0), changed
        )
        np.testing.assert_array_equal(
            np.any(new['down'] != old['down'], axis=1), changed
        )
        sets.add(tuple(np.flatnonzero(changed)))
        # 128 draws with the statistics of what they replace.
        dropped, drawn = old['up'][:, changed], new['up'][:, changed]
        assert abs(drawn.std() / dropped.std() - 1) < 0.25
        assert abs(drawn.mean() - dropped.mean()) < 0.3 * dropped.std()
    assert len(sets) > 4
    again = upcycled(changes, **options)[3]
    assert jax.tree.all(jax.tree.map(np.array_equal, found, again))


def test_noise():
    changes = {'model.moe.experts.hidden': 32}
    _, _, dense, found, transform = upcycled(changes, noise=0.1)
    assert not transform.exact
    old = block(dense, 'mlp')['up'][:, None]
    added = block(found)['experts']['up'] - old
    ratio = added.std(axis=(2, 3)) / old.std(axis=(2, 3))
    np.testing.assert_allclose(ratio, 0.1, rtol=0.15)
    assert not np.array_equal(added[:, 0], added[:, 1])


@pytest.mark.parametrize(
    ('changes', 'told'),
    [
        ({'model.moe_every': 0}, 'moe_layers = []: must be layers that are'),
        ({'model.moe.experts.hidden': 12}, 'a divisor of the 32 hidden units'),
        ({'model.moe.experts.hidden': 64}, 'at most the 32 of the dense'),
        (
            {'model.moe.experts.hidden': 8, 'model.moe.num_experts': 6},
            'a multiple of the 4 parts of a dense network',
        ),
        (
            {'model.moe.experts.activation': 'gelu'},
            "'swiglu'}, as in the dense",
        ),
        ({'model.num_layers': 4}, 'must be 2, as in the run'),
        ({'model.vocab_size': 300}, 'embedding is [256, 16]'),
        ({'model.moe.router.name': 'hash'}, 'chooses experts by its logits'),
        ({'model.moe.hierarchy': {'groups': 2}}, 'two levels'),
    ],
    ids=str,
)
def test_what_cannot_be_made(changes, told):
    with pytest.raises(ConfigError) as caught:
        upcycled({'model.moe.experts.hidden': 32, **changes})
    assert told in str(caught.value)


@pytest.fixture(scope='module')
def dense_run(tmp_path_factory):
    """A dense run with an average, and a checkpoint of step 4."""
    base = tmp_path_factory.mktemp('runs')
    folder = base / 'dense'
    folder.mkdir()
    files = tiny.write_corpus(base / 'corpus', files=2, size=400)
    plain = tiny.plain(
        {**DENSE, 'data.source.files': files, 'average': {'decay': 0.9}}
    )
    write_plain_config(folder, plain)
    state = tiny.state(tiny.check(plain))
    twice = jax.tree.map(lambda x: 2 * x, state.params)
    state = state._replace(step=np.int32(4), average=twice)
    checkpoints = Checkpoints(folder, keep=None)
    checkpoints.save(4, jax.device_put(state), {'next_index': 4})
    checkpoints.close()
    return folder


FLAGS = (
    '--config.model.moe_every=1',
    '--config.model.moe.experts.use_bias=True',
    '--config.model.moe.experts.hidden=16',
)


@pytest.mark.slow
def test_the_command(dense_run, tmp_path, capsys):
    before = contents(dense_run)
    folder = tmp_path / 'new'
    given = ['', 'upcycle', str(dense_run), f'--workdir={folder}', *FLAGS]
    assert main(given) == 0
    assert contents(dense_run) == before
    out = capsys.readouterr().out
    assert '4 experts are 2 copies of the dense network, each cut into' in out
    (event,) = history.read(folder)
    told = {name: event[name] for name in ('event', 'by', 'step', 'exact')}
    assert told == {'event': 'made', 'by': 'upcycle', 'step': 4, 'exact': True}
    np.testing.assert_allclose(
        event['after']['eval/loss'], event['before']['eval/loss'], rtol=1e-5
    )
    # An ordinary run, at step 0, whose logits in float32 are the dense ones.
    old, new = (restored(at) for at in (dense_run, folder))
    assert int(new[1].step) == 0
    assert jax.tree.all(
        jax.tree.map(np.array_equal, new[1].average, new[1].params)
    )
    first, second = (
        jax.jit(LM(config.model).apply)(state.variables, TOKENS)[0]
        for config, state in (old, new)
    )
    scale = float(np.abs(first).max())
    np.testing.assert_allclose(second, first, atol=2e-6 * scale)


def restored(folder):
    config = registry.read_run(folder)
    return config, restore_run(config, folder)


@pytest.mark.parametrize(
    ('flags', 'told'),
    [
        (['--step=3'], 'step = 3: must be that of a checkpoint (4)'),
        (['--workdir='], "--workdir = '': must be given"),
        (['--config.model.moe_evry=1'], 'no such field (nearest: moe_every)'),
        (['--redraw=2'], "redraw = '2'"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(dense_run, tmp_path, capsys, flags, told):
    folder = tmp_path / 'new'
    given = ['', 'upcycle', str(dense_run), f'--workdir={folder}', *FLAGS]
    assert main([*given, *flags]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count('\n') == 1
    assert not folder.exists()


def test_a_folder_that_has_something(dense_run, capsys):
    given = ['', 'upcycle', str(dense_run), f'--workdir={dense_run}', *FLAGS]
    assert main(given) == 2
    assert 'must be a new folder, or an empty one' in capsys.readouterr().err

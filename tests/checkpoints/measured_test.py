"""What experts do on a validation set, by loops in float64."""

import contextlib
import io

import jax
import numpy as np
import pytest

from moe import training
from moe.checkpoints.__main__ import main
from moe.checkpoints.measured import Measured, measure
from moe.checkpoints.transform import Source
from moe.training import history
from moe.training.checkpoint import Checkpoints
from moe.training.folder import read_plain_config, write_plain_config
from moe.training.record import read_record
from moe.training.restore import list_checkpoints
from tests import tiny
from tests.checkpoints import memory
from tests.reference import experts as reference_experts
from tests.reference import model as reference

CHANGES = {'model.moe.num_experts': 8, 'data.source.val_fraction': 0.25}


@pytest.fixture(scope='module')
def mixture(tmp_path_factory):
    """A run with mixtures, and its parameters in float64."""
    base = tmp_path_factory.mktemp('runs')
    folder = base / 'run'
    folder.mkdir()
    files = tiny.write_corpus(base / 'corpus', files=2, size=400)
    plain = tiny.plain({**CHANGES, 'data.source.files': files})
    write_plain_config(folder, plain)
    state = tiny.state(tiny.check(plain))
    checkpoints = Checkpoints(folder, keep=None)
    checkpoints.save(3, jax.device_put(state._replace(step=np.int32(3))), {})
    checkpoints.close()
    return folder, memory.double(state.params)


def windows(config):
    """The validation text as [rows, 17], and which targets there are."""
    text = np.asarray(config.data.source.load(16).val[:], int)
    count = -(-(len(text) - 1) // 16)
    tokens, mask = np.zeros((count, 17), int), np.zeros((count, 16), bool)
    for row in range(count):
        window = text[16 * row : 16 * row + 17]
        tokens[row, : len(window)] = window
        mask[row, : len(window) - 1] = True
    return tokens, mask


def expected(config, params, monkeypatch):
    """The sums of each mixture layer, token by token."""
    tokens, mask = windows(config)
    found, layer = [], reference.layer

    def measuring(h, router, experts, mask, options, *more):
        out = layer(h, router, experts, mask, options, *more)
        sums = Measured(*(np.zeros(8) for _ in range(3)), np.zeros((8, 8)))
        for g, s in np.argwhere(mask):
            sums.products[...] += np.outer(out.logits[g, s], out.logits[g, s])
            for k in range(2):
                e, gate = out.chosen[g, k, s], out.gates[g, k, s]
                own = reference_experts.expert_of(experts, e)
                y = reference_experts.mlp(h[g, s], own, options['activation'])
                sums.load[e] += 1
                sums.gate_mass[e] += gate
                sums.output[e] += gate * np.linalg.norm(y)
        found.append(sums)
        return out

    monkeypatch.setattr(reference, 'layer', measuring)
    x = params['embedding'][tokens[:, :-1]] * 4.0  # sqrt(d_model)
    options = tiny.oracle_options(config.model)
    reference.stack(x, params['stack'], options, mask=mask)
    return Measured(*(np.stack(each) for each in zip(*found, strict=True)))


def test_scores():
    load = np.array([[4.0, 0.0, 1.0]])
    found = Measured(load, 2 * load, 3 * load + 1, None)
    np.testing.assert_array_equal(found.score('load'), load)
    np.testing.assert_array_equal(found.score('gate_mass'), 2 * load)
    np.testing.assert_allclose(found.score('reap'), [[13 / 4, 1.0, 4.0]])


@pytest.mark.slow
def test_sums_over_a_validation_set(mixture, monkeypatch):
    folder, params = mixture
    source = Source(folder, None)
    found = measure(source)
    want = expected(source.config, params, monkeypatch)
    np.testing.assert_array_equal(found.load, want.load)
    for name in ('gate_mass', 'output', 'products'):
        np.testing.assert_allclose(
            getattr(found, name), getattr(want, name), rtol=1e-4
        )


@pytest.fixture(scope='module')
def pruned(mixture, tmp_path_factory):
    folder = tmp_path_factory.mktemp('pruned') / 'run'
    flags = ['--keep=4', '--by=load', f'--workdir={folder}', '--noevaluate']
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(['', 'prune_experts', str(mixture[0]), *flags]) == 0
    return folder, out.getvalue()


BLOCK = 'params/stack/layers/block_0/moe'


@pytest.mark.slow
def test_the_best_experts_stay(mixture, pruned):
    folder, _ = mixture
    pruned, out = pruned
    assert 'layer 0: 4 of 8 experts stay, to which ' in out
    (event,) = history.read(pruned)
    assert event['by'] == 'prune_experts'
    score, kept = np.array(event['score']), np.array(event['kept'])
    for one, best in zip(score, kept, strict=True):
        assert one[best].min() >= np.delete(one, best).max()
    # Each expert is the one that it was, with its column of the router.
    old, new = Source(folder, None), Source(pruned, 0)
    for i in range(2):
        for name, axis in (('experts/down', 0), ('router', 1)):
            one, other = (s.read(f'{BLOCK}/{name}')[i] for s in (old, new))
            np.testing.assert_array_equal(other, one.take(kept[i], axis))


@pytest.mark.slow
@pytest.mark.long
def test_a_pruned_run_trains_on_eight_devices(pruned, tmp_path):
    # Of any run, `tests/training/checkpoint_test` shows it.
    pruned, _ = pruned
    config = tiny.check(
        {
            **read_plain_config(pruned),
            'mesh': {'data': 2, 'fsdp': 2, 'expert': 2},
            'init_from': str(pruned),
            'steps': 1,
            'optimizer': {'schedule': {'name': 'constant', 'warmup_steps': 0}},
            'sample_length': 0,
        }
    )
    assert training.run(config, tmp_path / 'trained')
    (entry,) = list_checkpoints(tmp_path / 'trained')
    leaf = read_record(entry.path).leaves[f'{BLOCK}/experts/down']
    assert leaf.shape == (2, 4, 16, 16)

"""The command that evaluates, against the model by loops in float64."""

import json

import jax
import numpy as np
import pytest

from moe import evaluate
from moe.training.checkpoint import Checkpoints
from moe.training.folder import write_plain_config
from tests import tiny
from tests.reference import model as reference
from tests.training.written import contents

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A run's folder with two checkpoints, of which the first is the best."""
    base = tmp_path_factory.mktemp('runs')
    folder = base / 'run'
    folder.mkdir()
    files = tiny.write_corpus(base / 'corpus', files=2, size=400)
    tiny.write_corpus(base / 'other', files=3, size=300)
    plain = tiny.plain(
        {'data.source.files': files, 'data.source.val_fraction': 0.25}
    )
    write_plain_config(folder, plain)
    state = jax.device_put(tiny.state(tiny.check(plain)))
    checkpoints = Checkpoints(folder, keep=None)
    for step, scale in ((1, 1.0), (2, 0.5)):
        params = jax.tree.map(lambda x, s=scale: s * x, state.params)
        made = state._replace(step=np.int32(step), params=params)
        checkpoints.save(step, made, {'next_index': step})
    checkpoints.close()
    lines = [{'step': 1, 'eval/loss': 5.0}, {'step': 2, 'eval/loss': 6.0}]
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (folder / 'metrics.jsonl').write_text(text)
    with tiny.kept_programs(base / 'programs'):
        yield folder


def run(folder, *flags):
    return evaluate.main(['', f'--workdir={folder}', *flags])


def expected(config, params):
    """Loss, and load and entropy by layer, over the whole validation text."""
    text = np.asarray(config.data.source.load(16).val[:], int)
    count = -(-(len(text) - 1) // 16)
    tokens, mask = np.zeros((count, 17), int), np.zeros((count, 16), bool)
    for row in range(count):
        window = text[16 * row : 16 * row + 17]
        tokens[row, : len(window)] = window
        mask[row, : len(window) - 1] = True
    options = tiny.oracle_options(config.model)
    x = params['embedding'][tokens[:, :-1]] * 4.0  # sqrt(d_model)
    x, mixtures = reference.stack(x, params['stack'], options, mask=mask)
    x = reference.norm(x, params['norm'], options['epsilon'])
    logits = x @ params['head']
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    probs = powers / powers.sum(-1, keepdims=True)
    own = np.take_along_axis(probs, tokens[:, 1:, None], -1)[..., 0]
    layers = []
    for out in mixtures:
        chosen = np.moveaxis(out.chosen, 1, 2)[mask]
        load = 4 * np.bincount(chosen.reshape(-1), minlength=4) / chosen.size
        entropy = -np.sum(out.probs * np.log(out.probs), axis=-1)[mask]
        layers.append((load, entropy.mean()))
    return -np.log(own[mask]).mean(), layers


def test_the_newest_on_its_own_text(folder, capsys):
    assert run(folder) == 0
    out = capsys.readouterr().out.splitlines()
    found = json.loads((folder / 'evaluations' / 'step-2.json').read_text())
    assert out[-1] == f'written: {folder}/evaluations/step-2.json'
    config = tiny.check(
        {
            k: v
            for k, v in json.loads((folder / 'config.json').read_text()).items()
            if k != 'format'
        }
    )
    params = jax.tree.map(
        lambda x: 0.5 * np.float64(x), tiny.state(config).params
    )
    loss, layers = expected(config, params)
    metrics = found['metrics']
    np.testing.assert_allclose(metrics['eval/loss'], loss, rtol=1e-5)
    assert out[0].startswith(f'step 2: loss {loss:.4f}, bits_per_byte ')
    for i, (load, entropy) in enumerate(layers):
        name = f'eval/moe/layer_{i}'
        np.testing.assert_allclose(metrics[f'{name}/load'], load, rtol=1e-5)
        assert metrics[f'{name}/load_max'] == max(metrics[f'{name}/load'])
        np.testing.assert_allclose(
            metrics[f'{name}/entropy'], entropy, rtol=1e-5
        )
        assert metrics[f'{name}/dropped'] == 0
        assert out[1 + i].startswith(f'  layer_{i}: load_max {max(load):.3f}, ')
    assert (found['step'], found['changes']) == (2, {})
    assert found['data']['files'] == 2


def test_the_best_on_another_text(folder, capsys):
    other = folder.parent / 'other' / '*.txt'
    flags = [f'--config.data.source.files={other}']
    flags += ['--config.data.source.val_fraction=0.5']
    best = ['--step=best', '--metric=eval/loss']
    assert run(folder, *best, *flags) == 0
    before = contents(folder)
    assert run(folder, *best, *flags) == 0
    # Beside the first, which stays as it is.
    after = contents(folder)
    (new,) = set(after) - set(before)
    assert new == 'evaluations/step-1-2.json'
    assert {name: after[name] for name in before} == before
    found = json.loads(after[new])
    assert found['step'] == 1
    assert found['changes']['data.source.files'] == str(other)
    assert found['data']['files'] == 3
    first = json.loads(after['evaluations/step-1.json'])
    assert found['metrics'] == first['metrics']


@pytest.mark.parametrize(
    ('flags', 'told'),
    [
        (['--step=3'], 'step = 3: must be that of a checkpoint (1, 2)'),
        (['--step=last'], "--step = 'last': must be the step of a checkpoint"),
        (['--step=best', '--metric=eval/x'], "--metric = 'eval/x': must be"),
        (
            ['--config.model.d_model=32'],
            "must be a folder with this config's checkpoints",
        ),
        (['--config.data.sourc=3'], 'no such field (nearest: source)'),
        (['--workdir=/no/run'], "must be a run's folder"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(folder, capsys, flags, told):
    before = contents(folder)
    assert run(folder, *flags) == 2
    err = capsys.readouterr().err
    assert err.startswith('moe.evaluate: ')
    assert told in err
    assert err.count('\n') == 1
    assert contents(folder) == before

"""Every example does what it says, in fewer steps than it takes when run."""

import json
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from examples import (
    convex,
    hard_switch,
    mmoe_snr,
    open_a_run,
    own_model,
    sparse_dispatcher,
    top2,
)
from tests import commands, tiny
from tests.workloads.load_test import saved

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]


def assert_falls(errors, to):
    """Errors that are finite, and at last a share of the first."""
    assert np.all(np.isfinite(errors))
    assert errors[-1] < to * errors[0], (errors[0], errors[-1])


def test_hard_switch():
    result = hard_switch.main()
    assert result['last'] < 0.1 * result['first']
    assert result['right'] > 0.9


def test_the_custom_loss_weighs_experts_equally():
    # Errors 1 of one example of the first, and 9 and 25 of the second's two.
    outputs = jnp.array([[[1.0], [0.0], [0.0]], [[0.0], [3.0], [5.0]]])
    masks = jnp.array([[True, False, False], [False, True, True]])
    loss = hard_switch.custom_loss(outputs, masks, jnp.zeros((3, 1)))
    assert float(loss) == (1 + (9 + 25) / 2) / 2


def test_convex():
    result = convex.main(steps=150)
    assert_falls(result['losses'], 0.2)
    weights = np.asarray(result['weights'])
    assert weights.shape == (150, 3)
    assert np.all(weights > 0)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    assert np.argmax(weights[-1]) == 2  # the input that matters


def test_sparse_dispatcher():
    result = sparse_dispatcher.main(steps=100)
    assert result['last'] < 0.2 * result['first']
    assert result['difference'] < 1e-5


def test_top2():
    results = top2.main(steps=60)
    assert len(results) == 4
    for errors in results.values():
        assert_falls(errors, 0.75)


def test_mmoe_snr():
    results = mmoe_snr.main(steps=60)
    assert len(results) == 4
    for name, (errors, stats) in results.items():
        assert_falls(errors, 0.7)
        if 'mmoe' in name:  # a task's gates sum to 1
            total = np.sum(stats['gate'], axis=1)
            np.testing.assert_allclose(total, 1, rtol=1e-5)


def test_own_model():
    for losses in own_model.main(steps=80).values():
        assert_falls(losses, 0.7)


def test_open_a_run(tmp_path, capsys):
    folder = saved(tmp_path / 'run', tiny.plain())
    line = '{"step": 1, "eval/loss": 5.5}\n'
    (folder / 'metrics.jsonl').write_text(line)
    result = open_a_run.main(folder, 'a cat')
    assert result['logits'].shape[:2] == (1, 5)
    for layer in result['layers']:
        np.testing.assert_allclose(layer.weight.sum(axis=-1), 1, rtol=1e-5)
    printed = capsys.readouterr().out
    assert 'eval/loss: 5.500' in printed
    assert printed.count("b'c' to ") == len(result['layers']) == 2


def test_runs_as_a_command():
    command = [sys.executable, '-m', 'examples.convex']
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.count('weights') == 4


def test_own_router(tmp_path):
    # By the command of its first lines, of a small run.
    small = {'steps': 3, 'model.num_layers': 1, 'sample_length': 0}
    config = tiny.write_config(tmp_path / 'config.py', tiny.plain(small))
    done = commands.run(
        'train.py',
        f'--config={config}',
        f'--workdir={tmp_path / "run"}',
        f'--config.data.source.files={tiny.write_corpus(tmp_path / "text")}',
        "--config.plugins=('examples/own_router.py',)",
        '--config.model.moe.router.name=smooth',
        '--config.losses.uncertainty=0.01',
    )
    assert done.code == 0, done.err
    lines = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    entropy = [v['train/uncertainty'] for v in logged if 'train/loss' in v]
    assert all(0 < value <= np.log(4) + 1e-5 for value in entropy)
    # The state, which no gradient moves, is logged; at first it is 0.
    name = 'moe/layer_0/state/balance/bias'
    biases = [np.array(v[name]) for v in logged if name in v]
    assert not np.any(biases[0])
    assert np.any(biases[-1])
    np.testing.assert_allclose(np.sum(biases[-1]), 0, atol=1e-6)

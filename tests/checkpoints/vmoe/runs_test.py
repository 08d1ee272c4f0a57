"""`import` makes a run of a V-MoE checkpoint, and refuses another model."""

import json

import numpy as np
import pytest

import moe
from moe.checkpoints.__main__ import main
from tests.checkpoints.vmoe import written
from tests.reference import vmoe as reference
from tests.reference.compare import assert_close

IMAGES = np.random.default_rng(1).standard_normal((3, 6, 6, 3), np.float32)


def imported(source, folder, *flags):
    return main(['', 'import', str(source), f'--workdir={folder}', *flags])


@pytest.mark.long
@pytest.mark.slow
def test_logits_are_those_of_the_published_model(tmp_path, capsys):
    params = written.parameters(layers=2, mixtures=(1,))
    state = {f'params/{name}': x for name, x in params.items()}
    state['opt_state/mu'] = np.zeros(2, np.float32)
    written.write(tmp_path / 'vmoe_1', state)
    flags = ('--config.model.moe.dispatcher=indexed',)
    assert imported(tmp_path / 'vmoe_1', tmp_path / 'run', *flags) == 0
    out = capsys.readouterr().out
    # The class token and the bias of the patches are in the positions.
    size = sum(x.size for x in params.values()) - 2 * written.D
    assert f'vmoe: {len(params)} arrays, {size:,} parameters' in out
    assert 'config.model.moe.router.k = 2' in out
    assert 'left out: 1 arrays of a state of training' in out
    run = moe.load(tmp_path / 'run')
    assert run.step == 0
    desired = reference.logits(IMAGES, params)
    assert_close(run.logits(IMAGES), desired, 1e-5)
    assert run.config.model.moe_layers == [1]
    # (pixel - .5) / .5, of shares of white: from -1 to 1.
    assert run.config.data.mean == run.config.data.deviation == (0.5,)
    text = (tmp_path / 'run' / 'history.jsonl').read_text()
    event = json.loads(text.splitlines()[0])
    assert event['imported']['family'] == 'vmoe'


def refusal(source, tmp_path, capsys, *flags):
    code = imported(source, tmp_path / 'run', *flags)
    out = capsys.readouterr()
    assert (code, out.out) == (2, '')
    assert out.err.count('\n') == 1
    assert not (tmp_path / 'run').exists()
    return out.err


@pytest.mark.parametrize(
    ('changes', 'told'),
    [
        (
            {'Encoder/encoderblock_1/Moe/Router/mu': np.zeros((8, 4, 1))},
            'Encoder/encoderblock_1/Moe/Router/mu = [8, 4, 1]: must be absent: '
            'this V-MoE has no such parameter',
        ),
        (
            {'Encoder/encoderblock_0/Mlp/Dense_1/bias': None},
            'Encoder/encoderblock_0/Mlp/Dense_1/bias = None: must be there',
        ),
        (
            {'Encoder/posembed_input/pos_embedding': None},
            'Encoder/posembed_input/pos_embedding = []: must be there, with 3',
        ),
        (
            {'Encoder/posembed_input/pos_embedding': np.zeros((1, 8, 8))},
            'must be square patches of a square image',
        ),
    ],
)
def test_another_model_is_refused(changes, told, tmp_path, capsys):
    params = written.parameters(2, (1,)) | changes
    params = {name: x for name, x in params.items() if x is not None}
    written.write(tmp_path / 'a', params)
    assert told in refusal(tmp_path, tmp_path, capsys)


def test_flags_and_folders_that_do_not_fit(tmp_path, capsys):
    refused = lambda *flags: refusal(tmp_path, tmp_path, capsys, *flags)
    assert 'with the .index of a V-MoE' in refused()
    params = written.parameters(1, ())
    written.write(tmp_path / 'a', params)
    assert "must be 'float32' for a V-MoE" in refused('--dtype=bfloat16')
    written.write(tmp_path / 'b', params)
    assert 'one of its 2 checkpoints' in refused()

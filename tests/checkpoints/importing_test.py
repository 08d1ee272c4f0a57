"""`import` makes a run of a published model, and refuses what it cannot."""

import json
import shutil

import numpy as np
import pytest

import moe
from moe.checkpoints.__main__ import main
from moe.checkpoints.hf.files import (
    SINGLE,
    Planned,
    find_tensors,
    read_tensor,
    write_tensors,
)
from moe.checkpoints.importing import open_published
from tests.checkpoints.hf.goldens import FOLDER, golden

pytestmark = pytest.mark.slow


def imported(source, folder, *flags):
    return main(['', 'import', str(source), f'--workdir={folder}', *flags])


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Qwen3-MoE, whose tensors are in four shards, on eight devices."""
    folder = tmp_path_factory.mktemp('run') / 'a'
    flags = ('--config.mesh.expert=2', '--config.mesh.fsdp=4')
    assert imported(FOLDER / 'qwen3_moe', folder, *flags) == 0
    return folder


def test_a_run_that_is_read_onto_a_mesh_computes_the_same(run):
    found = moe.load(run)
    wanted = golden('qwen3_moe')
    logits = found.logits(wanted['tokens'])
    scale = np.abs(wanted['logits']).max()
    assert np.abs(logits - wanted['logits']).max() < 1e-4 * scale
    assert found.step == 0
    assert [layer.place for layer in found.routing(wanted['tokens'])] == [
        'layer_0',
        'layer_2',
    ]


def test_its_checkpoint_is_whole(run, capsys):
    assert main(['', 'verify', str(run)]) == 0
    assert 'is whole: step 0' in capsys.readouterr().out


def copied(folder, name='mixtral', **changes):
    """A copy of a golden, with other fields of its config."""
    shutil.copytree(FOLDER / name, folder)
    path = folder / 'config.json'
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(config))
    return folder


def rewritten(folder, changes):
    """Writes the tensors of a copy again, some of them others."""
    arrays = {n: read_tensor(s) for n, s in find_tensors(folder).items()}
    arrays |= changes
    planned = [
        Planned(n, x.shape, x.dtype, lambda x=x: x)
        for n, x in arrays.items()
        if x is not None
    ]
    write_tensors(folder, planned, 10**9)


def refusal(source, tmp_path, capsys, *flags):
    code = imported(source, tmp_path / 'run', *flags)
    out = capsys.readouterr()
    assert (code, out.out) == (2, '')
    assert out.err.count('\n') == 1
    assert not (tmp_path / 'run' / 'config.json').exists()
    return out.err


@pytest.mark.parametrize(
    ('changes', 'line'),
    [
        ({'model_type': 'gpt2'}, "config.json: model_type = 'gpt2': must be"),
        ({'new_bias': True}, 'config.json: new_bias = True: must be a field'),
        ({'hidden_act': 'relu'}, "hidden_act = 'relu': must be one of silu"),
        ({'num_experts_per_tok': 1}, 'num_experts_per_tok = 1: must be 2'),
        ({'num_experts_per_tok': 9}, 'config.model.moe.router.k = 9'),
        ({'hidden_size': 'x'}, 'config.model.d_model'),
        ({'quantization_config': {'quant_method': 'awq'}}, "'awq': must be"),
        (
            {'rope_scaling': {'type': 'dynamic', 'factor': 2.0}},
            "rope_type = 'dynamic'",
        ),
        ({'num_local_experts': 6}, '[5, 36]: must be of the shape [6, 36]'),
        ({'intermediate_size': 23}, '[22, 36]: must be of the shape [23, 36]'),
    ],
)
def test_what_cannot_be_honoured_is_one_line(tmp_path, capsys, changes, line):
    source = copied(tmp_path / 'source', **changes)
    assert line in refusal(source, tmp_path, capsys)


def test_a_tensor_that_is_left_over_is_refused_or_ignored(tmp_path, capsys):
    source = copied(tmp_path / 'source')
    rewritten(source, {'model.extra': np.zeros(3, np.float32)})
    assert 'tensor model.extra = [3]: must be' in refusal(
        source, tmp_path, capsys
    )
    assert imported(source, tmp_path / 'b', '--ignore=model.extra') == 0
    line = 'left out: 1 tensors that --ignore names, model.extra the first'
    assert line in capsys.readouterr().out


def test_files_that_are_not_whole_are_refused(tmp_path, capsys):
    (tmp_path / 'none').mkdir()
    line = refusal(tmp_path / 'none', tmp_path, capsys)
    assert 'a folder with a config.json and safetensors' in line
    source = copied(tmp_path / 'source')
    whole = (source / SINGLE).read_bytes()
    (source / SINGLE).write_bytes(whole[:-5])
    assert 'must be a whole file' in refusal(source, tmp_path, capsys)
    (source / 'config.json').write_text('{')
    assert 'config.json' in refusal(source, tmp_path, capsys)


def test_flags_that_do_not_fit_are_refused(tmp_path, capsys):
    source = FOLDER / 'mixtral'
    assert '--dtype' in refusal(source, tmp_path, capsys, '--dtype=float8')
    line = refusal(source, tmp_path, capsys, '--config.mesh.expert=3')
    assert 'mesh' in line
    assert main(['', 'import', str(source)]) == 2
    assert '--workdir = None: must be given' in capsys.readouterr().err


def test_a_folder_that_has_a_run_is_refused(run, capsys):
    assert imported(FOLDER / 'qwen3_moe', run) == 2
    assert 'must be a new folder' in capsys.readouterr().err


def test_tensors_are_opened_in_the_order_of_the_files():
    tensors = open_published(FOLDER / 'qwen3_moe').tensors
    stored = find_tensors(FOLDER / 'qwen3_moe')
    places = [stored[name][::3] for name in tensors]
    assert places == sorted(places)


def test_layers_that_predict_further_tokens_are_left_out_and_said(
    tmp_path, capsys
):
    source = copied(tmp_path / 'a', 'glm4_moe', num_nextn_predict_layers=1)
    more = {'model.layers.3.eh_proj.weight': np.zeros((4, 8), np.float32)}
    rewritten(source, more)
    assert imported(source, tmp_path / 'run') == 0
    line = 'left out: 1 tensors of layers that predict further tokens'
    assert line in capsys.readouterr().out

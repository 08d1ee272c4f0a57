import json

import numpy as np

from moe.checkpoints.hf import travel
from moe.checkpoints.hf.quantized import Tensor


def tensors(**dtypes):
    return {n: Tensor(d, (1,), np.zeros, (n,)) for n, d in dtypes.items()}


def test_dtypes_are_kept_by_names_without_numbers(tmp_path):
    source, run = tmp_path / 'a', tmp_path / 'b'
    source.mkdir()
    run.mkdir()
    found = tensors(
        **{
            'layers.0.w': 'BF16',
            'layers.11.w': 'BF16',
            'layers.0.bias': 'F32',
            'layers.1.bias': 'BF16',
        }
    )
    travel.keep(source, run, {'model_type': 'x'}, found)
    kept = travel.find(run)
    assert kept.config == {'model_type': 'x'}
    assert kept.dtype_of('layers.5.w') == 'BF16'
    assert kept.dtype_of('layers.0.bias') == 'F32'
    assert kept.dtype_of('layers.1.bias') == 'BF16'
    assert kept.dtype_of('other') is None
    assert 'layers.*.w' in kept.dtypes


def test_the_tokenizer_travels_and_code_does_not(tmp_path):
    source, run = tmp_path / 'a', tmp_path / 'b'
    source.mkdir()
    run.mkdir()
    for name in ('tokenizer.json', 'modeling_x.py', 'generation_config.json'):
        (source / name).write_text('{}')
    travel.keep(source, run, {}, {})
    names = {path.name for path in (run / travel.FOLDER).iterdir()}
    assert names == {
        'config.json',
        'dtypes.json',
        'tokenizer.json',
        'generation_config.json',
    }


def test_a_run_has_what_the_run_had_that_it_began_from(tmp_path):
    first, second, third = (tmp_path / name for name in 'abc')
    for path in (first, second, third):
        path.mkdir()
    travel.keep(tmp_path, first, {'model_type': 'x'}, {})
    for path, before in ((second, f'{first}:0'), (third, str(second))):
        text = json.dumps({'init_from': {'run': before}})
        (path / 'config.json').write_text(text)
    assert travel.find(third).folder == first / travel.FOLDER
    (second / 'config.json').write_text('{"init_from": null}')
    assert travel.find(third) is None

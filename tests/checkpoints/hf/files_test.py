import json

import ml_dtypes
import numpy as np
import pytest

from moe.checkpoints.hf.files import (
    DTYPES,
    INDEX,
    SINGLE,
    Planned,
    find_tensors,
    read_tensor,
    write_tensors,
)
from moe.config import ConfigError


def planned(arrays):
    return [
        Planned(n, x.shape, x.dtype, lambda x=x: x) for n, x in arrays.items()
    ]


def some_arrays():
    rng = np.random.default_rng(0)
    return {
        'odd': rng.integers(0, 255, 3, np.uint8),
        'b': rng.standard_normal((2, 5)).astype(ml_dtypes.bfloat16),
        'f': rng.standard_normal((4, 3)).astype(np.float32),
        'e': rng.standard_normal(7).astype(ml_dtypes.float8_e4m3fn),
        'none': np.zeros((0, 4), np.float32),
    }


def test_every_dtype_comes_back_bit_for_bit(tmp_path):
    arrays = some_arrays()
    assert write_tensors(tmp_path, planned(arrays), 10**6) == [SINGLE]
    found = find_tensors(tmp_path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        back = read_tensor(found[name])
        assert (back.dtype, back.shape) == (array.dtype, array.shape)
        assert back.tobytes() == array.tobytes()


def test_the_library_reads_what_is_written_and_writes_what_is_read(tmp_path):
    library = pytest.importorskip('safetensors.numpy')
    arrays = {n: x for n, x in some_arrays().items() if n in ('odd', 'f')}
    write_tensors(tmp_path, planned(arrays), 10**6)
    back = library.load_file(tmp_path / SINGLE)
    assert {n: x.tolist() for n, x in back.items()} == {
        n: x.tolist() for n, x in arrays.items()
    }
    library.save_file(arrays, tmp_path / SINGLE)
    for name, stored in find_tensors(tmp_path).items():
        assert read_tensor(stored).tolist() == arrays[name].tolist()


def test_shards_hold_at_most_their_size_and_the_index_finds_them(tmp_path):
    arrays = {f'x{i}': np.full(10, i, np.float32) for i in range(5)}
    names = write_tensors(tmp_path, planned(arrays), 80)
    assert names == [
        'model-00001-of-00003.safetensors',
        'model-00002-of-00003.safetensors',
        'model-00003-of-00003.safetensors',
        INDEX,
    ]
    index = json.loads((tmp_path / INDEX).read_text())
    assert index['metadata'] == {'total_size': 200}
    assert index['weight_map']['x2'] == names[1]
    found = find_tensors(tmp_path)
    for name, array in arrays.items():
        assert read_tensor(found[name]).tolist() == array.tolist()


def test_a_tensor_is_made_when_it_is_written(tmp_path):
    made = []

    def make(i):
        made.append(i)
        assert len(list(tmp_path.glob('*.safetensors'))) == i
        return np.zeros(4, np.float32)

    tensors = [
        Planned(f'{i}', (4,), np.dtype(np.float32), lambda i=i: make(i))
        for i in range(3)
    ]
    write_tensors(tmp_path, tensors, 16)
    assert made == [0, 1, 2]


@pytest.mark.parametrize('shard', ['model-00002-of-00003.safetensors'])
def test_a_missing_shard_is_named(tmp_path, shard):
    arrays = {f'x{i}': np.zeros(10, np.float32) for i in range(5)}
    write_tensors(tmp_path, planned(arrays), 80)
    (tmp_path / shard).unlink()
    with pytest.raises(ConfigError, match=f'{shard} of .* is missing'):
        find_tensors(tmp_path)


def test_an_index_with_a_tensor_that_its_shard_lacks_is_refused(tmp_path):
    arrays = {f'x{i}': np.zeros(10, np.float32) for i in range(5)}
    write_tensors(tmp_path, planned(arrays), 80)
    path = tmp_path / INDEX
    index = json.loads(path.read_text())
    index['weight_map']['y'] = 'model-00001-of-00003.safetensors'
    path.write_text(json.dumps(index))
    with pytest.raises(ConfigError, match=r'00001-of-00003\.safetensors has y'):
        find_tensors(tmp_path)


def test_files_that_are_not_whole_are_told_in_one_line(tmp_path):
    path = tmp_path / SINGLE
    write_tensors(tmp_path, planned(some_arrays()), 10**6)
    whole = path.read_bytes()
    for data in (
        whole[:-1],
        whole[:40],
        whole[:4],
        whole + b'x',
        b'\xff' * 100,
        (2).to_bytes(8, 'little') + b'[]',
    ):
        path.write_bytes(data)
        with pytest.raises(ConfigError, match='must be a whole file'):
            find_tensors(tmp_path)


def test_a_dtype_that_is_not_known_is_refused(tmp_path):
    header = {'x': {'dtype': 'F4', 'shape': [2], 'data_offsets': [0, 1]}}
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, 'little') + text + b'\0'
    (tmp_path / SINGLE).write_bytes(data)
    with pytest.raises(ConfigError, match=r"x = 'F4': must be one of F64"):
        find_tensors(tmp_path)


def test_a_folder_without_safetensors_is_refused(tmp_path):
    (tmp_path / 'pytorch_model.bin').write_bytes(b'')
    with pytest.raises(ConfigError, match=r'a folder with model\.safetensors'):
        find_tensors(tmp_path)


def test_dtypes_have_the_widths_that_their_names_say():
    for name, dtype in DTYPES.items():
        digits = name.partition('_')[0].lstrip('BFIU')
        if digits.isdecimal():
            assert dtype.itemsize * 8 == int(digits)

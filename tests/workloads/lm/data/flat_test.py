"""nanoGPT's and llm.c's files."""

import numpy as np
import pytest

from moe.config import ConfigError
from moe.workloads.lm.data.flat import LLMC, NanoGPT
from tests.workloads.lm.data.formats import write_llmc
from tests.workloads.lm.data.tokens_test import every_span

IDS = [5, 40_000, 0, 7, 8, 0]


@pytest.mark.parametrize('dtype', ['uint16', 'uint32', 'int32'])
def test_nanogpt(tmp_path, dtype):
    np.array(IDS, dtype).tofile(tmp_path / 'train.bin')
    source = NanoGPT(files=str(tmp_path), dtype=dtype)
    every_span(source.tokens('files', None), IDS)
    every_span(source.tokens('files', 0), IDS, [0, 3])


@pytest.mark.parametrize(
    ('magic', 'version', 'stored'),
    [(20240520, 1, '<u2'), (20240801, 7, '<u4')],
)
def test_llmc(tmp_path, magic, version, stored):
    path = tmp_path / 'a.bin'
    files = write_llmc(path, IDS, magic, version, stored)
    found = LLMC(files=files).tokens('files', None)
    every_span(found, IDS)
    # What is behind the tokens of the header is no token.
    with path.open('ab') as file:
        file.write(b'\x01' * 8)
    every_span(LLMC(files=files).tokens('files', 0), IDS, [0, 3])


def test_a_document_goes_on_in_the_next_file(tmp_path):
    write_llmc(tmp_path / 'train_000002.bin', [9, 0, 3, 0])
    write_llmc(tmp_path / 'train_000001.bin', [1, 2, 0, 8])
    write_llmc(tmp_path / 'val_000000.bin', [4, 4, 0])
    source = LLMC(
        files=f'{tmp_path}/train_*.bin',
        val_files=f'{tmp_path}/val_*.bin',
        end_of_text=0,
    )
    corpus = source.load(2)
    every_span(corpus.train, [1, 2, 0, 8, 9, 0, 3, 0], [0, 3, 6])
    assert corpus.val[:].tolist() == [4, 4, 0]
    assert corpus.facts == {
        'files': 2,
        'val_files': 1,
        'train_tokens': 8,
        'val_tokens': 3,
    }


@pytest.mark.parametrize(
    ('source', 'content', 'words'),
    [
        (NanoGPT, b'', 'has 0 bytes'),
        (NanoGPT, b'abc', 'has 3 bytes, which are no ids of uint16'),
        (NanoGPT, None, "name = 'llmc'"),
        (LLMC, b'abcd' * 300, "does not have llm.c's header"),
        (LLMC, {'version': 2}, 'version 2, not 1'),
        (LLMC, {'count': 7}, 'has 6 tokens, and its header says 7'),
        (LLMC, {'count': 0}, 'has 6 tokens, and its header says 0'),
    ],
    ids=['empty', 'odd', 'header', 'none', 'version', 'cut', 'zero'],
)
def test_what_is_none(tmp_path, source, content, words):
    path = tmp_path / 'a.bin'
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write_llmc(path, IDS, **(content or {}))
    with pytest.raises(ConfigError, match=words) as caught:
        source(files=str(path)).tokens('files', None)
    assert caught.value.field == 'files'
    assert '\n' not in str(caught.value)


def test_fingerprint_is_of_contents(tmp_path):
    def fingerprint(name, ids, **options):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.array(ids, np.uint16).tofile(tmp_path / name)
        source = NanoGPT(files=str(tmp_path / name), **options)
        return source.load(1).fingerprint

    same = fingerprint('a.bin', IDS)
    assert same == fingerprint('b/c.bin', IDS)
    assert same != fingerprint('d.bin', [*IDS[:-1], 1])
    assert same != fingerprint('e.bin', IDS, val_fraction=0.5)

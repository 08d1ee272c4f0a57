"""What sources of tokenized files share."""

import json
import shutil

import numpy as np
import pytest

from moe.config import ConfigError
from moe.workloads.lm.data import token_files
from moe.workloads.lm.data.flat import NanoGPT
from moe.workloads.lm.data.token_files import split
from moe.workloads.lm.data.tokenizer import read_tokenizer
from moe.workloads.lm.data.tokens import InMemory


def write(path, ids):
    np.array(ids, np.uint16).tofile(path)
    return str(path)


@pytest.mark.parametrize(
    ('starts', 'fraction', 'border'),
    [
        (None, 0.25, 75),  # anywhere
        ([0, 70, 90], 0.25, 70),  # the last start at or before it
        ([0, 75, 90], 0.25, 75),
        ([0, 20, 90], 0.25, 75),  # none nearby: within a tenth
        ([0, 70], 0.0, 96),  # one sequence of 3 and its target, near no start
    ],
)
def test_split(starts, fraction, border):
    train, val = split(InMemory(np.arange(100), starts), fraction, 3)
    assert (len(train), len(val)) == (border, 100 - border)
    assert (train[:][-1], val[:][0]) == (border - 1, border)


def test_too_short(tmp_path):
    with pytest.raises(ConfigError, match=r'seq_len \+ 1 = 10 training tokens'):
        NanoGPT(files=write(tmp_path / 'a.bin', range(12))).load(9)


def test_a_file_on_both_sides(tmp_path):
    files = write(tmp_path / 'a.bin', range(40))
    with pytest.raises(ConfigError, match=r'a\.bin is in both'):
        NanoGPT(files=files, val_files=f'{tmp_path}/*.bin').load(3)


def test_text_of_the_ids(tmp_path, tokenizer_file):
    tokenizer = read_tokenizer(tokenizer_file)
    ids = tokenizer.encode('the quick brown fox')
    files = write(tmp_path / 'a.bin', [*ids, 0] * 9)
    source = NanoGPT(files=files, tokenizer=tokenizer_file)
    assert source.vocab_size == 280
    assert source.decode(ids) == 'the quick brown fox'
    assert source.encode('the fox').tolist() == (
        tokenizer.encode('the fox').tolist()
    )
    assert ''.join(source.pieces(ids)) == 'the quick brown fox'
    assert source.token_bytes()[ids].sum() == 19
    # The tokenizer's end of text cuts documents.
    starts = source.load(3).train.document_starts(0, 30)
    assert starts.tolist() == list(range(0, 30, len(ids) + 1))


def test_repeated_documents_are_told(tmp_path):
    files = write(tmp_path / 'a.bin', [1, 2, 0, 3, 4, 0, 1, 2, 0, 5, 6, 0])
    (note,) = NanoGPT(files=files, end_of_text=0).load(2).notes
    assert note.startswith('1 of 4 documents (all) are')


def test_a_sample_of_documents_is_called_one(tmp_path, monkeypatch):
    found = lambda parts: (40, 2, 0.05)
    monkeypatch.setattr(token_files, 'repeated_documents', found)
    files = write(tmp_path / 'a.bin', range(40))
    (note,) = NanoGPT(files=files).load(2).notes
    assert note.startswith('2 of 40 documents (a sample of 0.05 of the tokens)')


def test_without_a_tokenizer(tmp_path):
    source = NanoGPT(files=write(tmp_path / 'a.bin', range(40)))
    assert (source.vocab_size, source.token_bytes()) == (1, None)
    assert source.pieces(np.array([3, 40])) == ['3 ', '40 ']
    assert source.decode(np.array([3, 40])) == '3 40'
    with pytest.raises(ConfigError, match='sample_prompt'):
        source.encode('a')
    assert source.load(3).train.document_starts(0, 30) is None


@pytest.mark.parametrize('files', ['', '/a.bin', '/*.bin'])
def test_the_tokenizer_beside_the_files(tmp_path, tokenizer_file, files):
    shutil.copy(tokenizer_file, tmp_path / 'bpe.json')
    (tmp_path / 'manifest.json').write_text('{"tokenizer": "bpe.json"}')
    write(tmp_path / 'a.bin', range(40))
    source = NanoGPT(files=f'{tmp_path}{files}')
    assert source.vocab_size == 280
    (tmp_path / 'manifest.json').write_text(json.dumps({'tokenizer': ''}))
    assert source.vocab_size == 1

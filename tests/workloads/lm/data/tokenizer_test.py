"""Tokenizers: bytes, and files of the library."""

import json

import numpy as np
import pytest

from moe.config import ConfigError
from moe.workloads.lm.data import tokenizer as module
from moe.workloads.lm.data.tokenizer import (
    Bytes,
    FileTokenizer,
    byte_characters,
    read_tokenizer,
)

TEXT = 'the fox, caf\u00e9 \u20ac and\n'


def test_bytes():
    found = read_tokenizer('')
    assert isinstance(found, Bytes)
    assert (found.vocab_size, found.end_of_text) == (256, 0)
    assert found.encode(TEXT).tolist() == list(TEXT.encode())
    (ids,) = found.encode_all([b'a\xff'])
    assert ids.tolist() == [97, 255]
    assert found.decode(found.encode(TEXT)) == TEXT
    assert found.token_bytes().tolist() == [1] * 256


def test_a_file(tokenizer_file):
    found = read_tokenizer(tokenizer_file)
    assert (found.vocab_size, found.end_of_text) == (280, 0)
    ids = found.encode(TEXT)
    assert ids.dtype == np.int32
    assert len(ids) < len(TEXT.encode())
    assert found.decode(ids) == TEXT
    assert found.decode([*ids, 0]) == f'{TEXT}<|endoftext|>'
    several = found.encode_all([TEXT.encode(), b'', b'fox'])
    assert several[0].tolist() == ids.tolist()
    assert several[1].tolist() == []
    # The bytes of the tokens are those of the text, whatever the cuts.
    sizes = found.token_bytes()
    assert sizes[0] == 0
    for text in (TEXT, '\u20ac\u20ac', '\U0001f600', 'x\n\n  y'):
        assert sizes[found.encode(text)].sum() == len(text.encode())


def test_pieces(tokenizer_file):
    found = read_tokenizer(tokenizer_file)
    assert ''.join(found.pieces(found.encode('the fox and'))) == 'the fox and'
    # Three tokens of one byte each, none of which is a character.
    assert found.pieces(found.encode('\u20ac')) == ['', '', '']
    assert found.pieces([0]) == ['<|endoftext|>']


def test_a_vocabulary_with_marks_and_bytes():
    # As SentencePiece's: a blank is U+2581, a byte <0xNN>.
    tokenizers = pytest.importorskip('tokenizers')
    vocab = {'<unk>': 0, '\u2581the': 1, '<0x0A>': 2, '\u00e9': 3, '</s>': 4}
    model = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab, [], unk_token='<unk>')
    )
    model.add_special_tokens(['</s>'])
    found = FileTokenizer(model.to_str())
    assert found.token_bytes().tolist() == [5, 4, 1, 2, 0]
    assert found.pieces([1, 2, 3]) == [' the', '\n', '\u00e9']
    assert found.end_of_text == 4


def test_truncation_and_padding_are_left_out(tokenizer_file):
    tokenizers = pytest.importorskip('tokenizers')
    model = tokenizers.Tokenizer.from_file(tokenizer_file)
    model.enable_truncation(2)
    model.enable_padding(length=9)
    found = FileTokenizer(model.to_str())
    assert found.encode(TEXT).tolist() == (
        read_tokenizer(tokenizer_file).encode(TEXT).tolist()
    )


def test_the_alphabet_of_bytes():
    # Of GPT-2: 'A' is itself, a blank U+0120, an end of line U+010A.
    found = byte_characters()
    assert len(set(found.values())) == 256
    assert (found[65], found[32], found[10]) == ('A', '\u0120', '\u010a')
    assert (found[0xAD], found[255]) == ('\u0143', '\u00ff')


def test_a_folder(tokenizer_file):
    folder = tokenizer_file.removesuffix('/tokenizer.json')
    assert read_tokenizer(folder) is read_tokenizer(tokenizer_file)


@pytest.mark.parametrize('content', [None, '{', json.dumps({'model': 1})])
def test_what_is_none(tmp_path, content):
    pytest.importorskip('tokenizers')
    path = tmp_path / 'tokenizer.json'
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=r'^tokenizer = .*tokenizer\.json'):
        read_tokenizer(str(path))


def test_without_the_library(tmp_path, monkeypatch):
    (tmp_path / 'tokenizer.json').write_text('{}')

    def lack(name):
        raise ImportError(name)

    monkeypatch.setattr(module.importlib, 'import_module', lack)
    with pytest.raises(ConfigError, match=r"pip install 'moe\[text\]'"):
        read_tokenizer(str(tmp_path))

"""Rows of JSON as documents."""

import gzip
import hashlib
import json

import pytest

from moe.config import ConfigError
from moe.workloads.lm.data.jsonl import JSONLines, row_text
from moe.workloads.lm.data.tokenizer import read_tokenizer
from tests.workloads.lm.data.blob_test import documents

TEXTS = [f'text {i}, caf\u00e9' for i in range(40)]


def write(path, texts, field='text'):
    lines = [json.dumps({'name': i, field: t}) for i, t in enumerate(texts)]
    path.write_text('\n'.join(lines) + '\n\n')
    return str(path)


def texts_of(found):
    return [bytes(ids[:-1]).decode() for ids in documents(found)]


def by_hash(texts, fraction):
    """Whether each validates: the first 64 bits of its SHA-256 say so."""
    value = lambda t: int(hashlib.sha256(t.encode()).hexdigest()[:16], 16)
    return [value(text) < fraction * 16**16 for text in texts]


def test_split_by_documents(tmp_path, cache):
    files = write(tmp_path / 'a.jsonl', TEXTS)
    corpus = JSONLines(files=files, val_fraction=0.3).load(4)
    val = by_hash(TEXTS, 0.3)
    pairs = list(zip(TEXTS, val, strict=True))
    assert texts_of(corpus.val) == [text for text, is_val in pairs if is_val]
    assert texts_of(corpus.train) == [t for t, is_val in pairs if not is_val]
    assert corpus.val[:][-1] == 0


def test_depends_on_contents_alone(tmp_path, cache):
    # Not on names or compression; a further document moves no other.
    first = JSONLines(
        files=write(tmp_path / 'a.jsonl', TEXTS), val_fraction=0.3
    )
    data = (tmp_path / 'a.jsonl').read_bytes()
    (tmp_path / 'z').mkdir()
    (tmp_path / 'z' / 'b').write_bytes(gzip.compress(data))
    again = JSONLines(files=str(tmp_path / 'z'), val_fraction=0.3)
    one, two = first.load(4), again.load(4)
    assert one.fingerprint == two.fingerprint
    assert one.val[:].tolist() == two.val[:].tolist()
    more = write(tmp_path / 'c.jsonl', ['new', *TEXTS])
    third = JSONLines(files=more, val_fraction=0.3).load(4)
    assert set(texts_of(third.val)) - {'new'} == set(texts_of(one.val))
    assert third.fingerprint != one.fingerprint


def test_repeated_documents_are_on_one_side(tmp_path, cache):
    files = write(tmp_path / 'a.jsonl', TEXTS * 3)
    corpus = JSONLines(files=files, val_fraction=0.3).load(4)
    assert corpus.facts['repeated_documents'] == 80
    assert not set(texts_of(corpus.train)) & set(texts_of(corpus.val))


def test_few_documents(tmp_path, cache):
    # Doubled until the documents of the lowest hashes make a sequence.
    texts = TEXTS[:9]
    shares = [0.01 * 2**i for i in range(6)]
    fraction = next(share for share in shares if sum(by_hash(texts, share)))
    assert fraction > 0.01
    files = write(tmp_path / 'a.jsonl', texts)
    corpus = JSONLines(files=files, val_fraction=0.01).load(4)
    pairs = zip(texts, by_hash(texts, fraction), strict=True)
    assert texts_of(corpus.val) == [text for text, is_val in pairs if is_val]


def test_split_by_bytes(tmp_path, cache):
    files = write(tmp_path / 'a.jsonl', TEXTS)
    corpus = JSONLines(files=files, val_fraction=0.25, split='bytes').load(4)
    whole = '\0'.join([*TEXTS]).encode()
    val, train = bytes(corpus.val[:]), bytes(corpus.train[:])
    assert val + b'\0' + train == whole
    # A quarter, up to the end of a document.
    assert 0.25 * len(whole) - 1 <= len(val) < 0.25 * len(whole) + 16


def test_tokens(tmp_path, cache, tokenizer_file):
    files = write(tmp_path / 'a.jsonl', TEXTS, 'body')
    corpus = JSONLines(
        files=files, field='body', tokenizer=tokenizer_file, val_fraction=0.3
    ).load(4)
    found = read_tokenizer(tokenizer_file)
    kept = [t for t, val in zip(TEXTS, by_hash(TEXTS, 0.3), strict=True) if val]
    desired = [[*found.encode(t).tolist(), 0] for t in kept]
    assert documents(corpus.val) == desired


@pytest.mark.parametrize(
    'line',
    ['{', '[1]', '"text"', '{"body": "x"}', '{"text": 3}', '{"text": null}'],
)
def test_a_line_without_a_text(tmp_path, cache, line):
    (tmp_path / 'a.jsonl').write_text('{"text": "x"}\n' + line + '\n')
    with pytest.raises(ConfigError, match=r"'text' in line 2") as caught:
        JSONLines(files=str(tmp_path / 'a.jsonl')).load(4)
    assert '\n' not in str(caught.value)


def test_text_of_a_row():
    assert row_text(b'{"a": "x\\u00e9"}', 'a') == 'x\u00e9'.encode()
    # Half of a pair of surrogates is no text.
    assert row_text(b'{"a": "x\\ud800"}', 'a') == b'x?'

"""The command that makes shards: its folder, again, and in processes."""

import hashlib
import json

import pytest

from moe import tokenize
from moe.workloads.lm.data import SOURCES
from moe.workloads.lm.data.tokenizer import read_tokenizer

pytest.importorskip('tokenizers')

TEXTS = [f'def f{i}(x):\n    return x + {i}\n' for i in range(200)]


@pytest.fixture
def corpus(tmp_path):
    """A folder of two files of rows."""
    (tmp_path / 'rows').mkdir()
    for i in range(2):
        lines = [json.dumps({'text': text}) for text in TEXTS[100 * i :][:100]]
        (tmp_path / 'rows' / f'{i}.jsonl').write_text('\n'.join(lines))
    return tmp_path / 'rows'


def run(corpus, *arguments, out='out'):
    """Runs the command; returns its exit code and its folder."""
    out = corpus.parent / out
    given = [f'--files={corpus}', f'--out={out}', '--processes=1', *arguments]
    return tokenize.main(['moe.tokenize', *given]), out


@pytest.fixture
def small(monkeypatch):
    """Parts of 2 kB instead of MiB."""
    whole = tokenize._parts
    monkeypatch.setattr(tokenize, '_parts', lambda size: whole(2000))
    groups = tokenize.grouped
    monkeypatch.setattr(
        tokenize, 'grouped', lambda parts, size: groups(parts, 2000)
    )


def test_a_trained_tokenizer(corpus, small, capsys):
    code, out = run(corpus, '--vocab_size=300', '--format=megatron')
    assert code == 0
    printed = capsys.readouterr().out
    assert '200 documents' in printed
    assert f'--config.data.source.files={out}' in printed
    manifest = json.loads((out / 'manifest.json').read_text())
    tokenizer = read_tokenizer(str(out / 'tokenizer.json'))
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (300, 0)
    found = SOURCES['megatron'](files=str(out)).tokens('files', None)
    ids = [[*tokenizer.encode(text).tolist(), 0] for text in TEXTS]
    assert found[:].tolist() == [i for document in ids for i in document]
    shards = manifest.pop('shards')
    assert len(shards) > 3
    for entry in shards:
        for name, about in entry['files'].items():
            data = (out / name).read_bytes()
            assert about['sha256'] == hashlib.sha256(data).hexdigest()
    for name in ('documents', 'tokens', 'text_bytes'):
        assert manifest[name] == sum(entry[name] for entry in shards)
    assert manifest == {
        'format': 'megatron',
        'dtype': 'uint16',
        'tokenizer': 'tokenizer.json',
        'tokenizer_sha256': tokenizer.digest,
        'vocab_size': 300,
        'end_of_text': 0,
        'documents': 200,
        'tokens': len(found),
        'text_bytes': sum(len(text.encode()) for text in TEXTS),
    }


def test_it_goes_on_where_it_ended(corpus, small, monkeypatch):
    write, written = tokenize.write_shard, []

    def count(shard):
        if len(written) == 2 and stops:
            raise KeyboardInterrupt
        written.append(shard.name)
        return write(shard)

    monkeypatch.setattr(tokenize, 'write_shard', count)
    stops = True
    assert run(corpus, '--vocab_size=300')[0] != 0
    assert not (corpus.parent / 'out' / 'manifest.json').exists()
    stops = False
    first, out = set(written), run(corpus, '--vocab_size=300')[1]
    assert len(written) == len(set(written)) > len(first) == 2
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    count_before = len(written)
    run(corpus, '--vocab_size=300')
    assert len(written) == count_before
    # The same as of one that nothing interrupted.
    _, other = run(corpus, '--vocab_size=300', out='other')
    for path in other.glob('tokens*'):
        assert path.read_bytes() == before[path.name]
    # A file that changed is read again, and no other.
    del written[:]
    (corpus / '1.jsonl').write_text('{"text": "new"}\n')
    run(corpus, '--vocab_size=300')
    manifest = json.loads((out / 'manifest.json').read_text())
    assert manifest['documents'] == 101
    assert {p.name for p in out.glob('tokens*')} == {
        name for entry in manifest['shards'] for name in entry['files']
    }


@pytest.mark.slow
def test_several_processes(corpus, small):
    _, one = run(corpus, '--vocab_size=300')
    _, two = run(corpus, '--vocab_size=300', '--processes=2', out='two')
    names = {p.name for p in one.glob('tokens*')}
    assert names == {p.name for p in two.glob('tokens*')}
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes()


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ([], '--tokenizer'),
        (['--vocab_size=300', '--tokenizer=x'], 'not both'),
        (['--vocab_size=3'], 'vocab_size'),
        (['--vocab_size=300', '--files=no/such'], 'there is no such file'),
        (['--vocab_size=300', '--out='], '--out'),
        (['--tokenizer=no.json'], 'No such file'),
        (['--vocab_size=300', '--field=body'], "no text 'body'"),
        (['--vocab_size=300', '--format=tar'], 'format'),
    ],
)
def test_wrong_command_lines(corpus, capsys, arguments, words):
    code, _ = run(corpus, *arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert code != 0
    assert line.startswith('moe.tokenize: ')
    assert words in line


def test_another_tokenizer_in_the_folder(corpus, tmp_path, capsys):
    run(corpus, '--vocab_size=300')
    _, other = run(corpus, '--vocab_size=270', out='other')
    code, _ = run(corpus, f'--tokenizer={other}/tokenizer.json')
    assert code != 0
    assert 'another --out' in capsys.readouterr().err

"""A run's folder has its tokenizer, wherever it is moved."""

import shutil

import numpy as np
import pytest

import moe
from moe.config import ConfigError
from moe.training.folder import write_plain_config
from moe.workloads.lm.data import Mixture, NanoGPT, TextFiles
from moe.workloads.lm.data.kept import keep_tokenizer, with_kept_tokenizer
from tests import tiny


@pytest.fixture
def gone(tmp_path, tokenizer_file):
    """A source whose tokenizer is in a folder of a run, and gone elsewhere."""
    named = shutil.copy(tokenizer_file, tmp_path / 'named.json')
    source = NanoGPT(files='no.bin', tokenizer=str(named))
    mixture = Mixture({'bytes': NanoGPT(files='no.bin'), 'tokens': source})
    for name, one in (('run', source), ('mixed', mixture)):
        (tmp_path / name).mkdir()
        keep_tokenizer(one, tmp_path / name)
    ids = source.encode('the quick brown')
    named.unlink()
    return source, ids


def test_text_without_the_named_file(tmp_path, gone):
    source, ids = gone
    assert source.decode(ids) != 'the quick brown'
    for name in ('run', 'mixed'):
        found = with_kept_tokenizer(source, tmp_path / name)
        assert found.decode(ids) == 'the quick brown'
        assert found.encode('the quick brown').tolist() == ids.tolist()
        assert found.vocab_size == 280
        assert found.token_bytes()[ids].sum() == len('the quick brown')


def test_a_loaded_run_has_text(tmp_path, gone):
    source, ids = gone
    changes = {
        'data.source': {
            'name': 'nanogpt',
            'files': 'no.bin',
            'tokenizer': source.tokenizer,
        },
        'model.vocab_size': 280,
    }
    write_plain_config(tmp_path / 'run', tiny.plain(changes))
    run = moe.load(tmp_path / 'run')
    assert run.config.data.source.decode(np.array(ids)) == 'the quick brown'


def test_bytes_and_runs_of_before_have_none(tmp_path):
    source = TextFiles()
    keep_tokenizer(source, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert with_kept_tokenizer(source, tmp_path) is source


def test_a_broken_file(tmp_path):
    pytest.importorskip('tokenizers')
    (tmp_path / 'tokenizer.json').write_text('{}')
    with pytest.raises(ConfigError, match=r'a tokenizer\.json'):
        with_kept_tokenizer(TextFiles(), tmp_path)

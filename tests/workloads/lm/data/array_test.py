"""An array in the config itself."""

import numpy as np
import pytest

from moe.config import ConfigError, parse
from moe.workloads.lm.data.array import ArraySource
from moe.workloads.lm.data.windows import DataConfig


def test_of_a_config():
    ids = np.arange(40) % 7
    section = {'name': 'array', 'ids': ids.tolist(), 'val_fraction': 0.25}
    source = parse(DataConfig, {'source': section}).source
    assert source.vocab_size == 7
    corpus = source.load(4)
    assert corpus.train[:].tolist() == ids[:30].tolist()
    assert corpus.val[:].tolist() == ids[30:].tolist()
    assert corpus.facts == {'train_tokens': 30, 'val_tokens': 10}
    assert source.decode(ids[:3]) == '0 1 2'


def test_documents():
    ids = tuple(int(i) for i in [1, 2, 0] * 10)
    corpus = ArraySource(ids=ids, end_of_text=0, val_fraction=0.25).load(4)
    # 22.5 tokens on, the last document that begins before.
    assert (len(corpus.train), len(corpus.val)) == (21, 9)
    assert corpus.train.document_starts(0, 9).tolist() == [0, 3, 6]


def test_too_short():
    with pytest.raises(ConfigError, match=r"^ids = '3 ids'"):
        ArraySource(ids=(1, 2, 3)).load(4)


def test_text(tokenizer_file):
    source = ArraySource(ids=(1, 2), tokenizer=tokenizer_file)
    assert source.vocab_size == 280
    assert source.decode(source.encode('fox')) == 'fox'

"""Data sources of the language model, by name."""

import dataclasses

import numpy as np
import pytest

from moe.config import ConfigError, parse
from moe.workloads.lm.data import SOURCES, Corpus, Source, check_length
from moe.workloads.lm.data.text import TextFiles
from moe.workloads.lm.data.windows import DataConfig


@dataclasses.dataclass(frozen=True)
class Digits(Source):
    """Digits that count up, for whoever registers it."""

    length: int = 40

    @property
    def vocab_size(self):
        return 10

    def load(self, seq_len):
        ids = np.arange(self.length, dtype=np.uint16) % 10
        return Corpus(ids, ids, f'{self.length}')


def test_by_name():
    assert parse(DataConfig, {}).source == TextFiles()
    section = {'source': {'name': 'text', 'files': '*.txt'}}
    assert parse(DataConfig, section).source == TextFiles('*.txt')
    with pytest.raises(ConfigError, match=r'source.name = .*one of array, '):
        parse(DataConfig, {'source': 'tape'})


def test_one_from_outside(monkeypatch):
    monkeypatch.setitem(SOURCES._entries, 'digits', Digits)
    config = parse(DataConfig, {'source': {'name': 'digits', 'length': 20}})
    assert config.source == Digits(20)
    assert len(config.source.load(4).train) == 20


def test_tokens_that_are_no_text():
    assert Digits().decode(np.array([3, 1])) == '3 1'
    with pytest.raises(ConfigError, match=r"^sample_prompt = 'a'"):
        Digits().encode('a')


@pytest.mark.parametrize(
    ('sizes', 'what'), [((5, 6), 'training'), ((6, 5), 'validation')]
)
def test_too_few_tokens(sizes, what):
    corpus = Corpus(*(np.zeros(n, int) for n in sizes), '')
    with pytest.raises(ConfigError, match=f'6 {what} tokens .there are 5') as e:
        check_length(corpus, 5, 'files', 'x')
    assert e.value.field == 'files'
    check_length(corpus, 4, 'files', 'x')

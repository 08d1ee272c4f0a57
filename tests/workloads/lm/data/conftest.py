"""A tokenizer for tests of data."""

import pytest

TEXTS = [
    'the quick brown fox jumps over it',
    'caf\u00e9 and the fox, the end\n',
]


@pytest.fixture(scope='session')
def tokenizer_file(tmp_path_factory):
    """A byte-level BPE of 280 ids, of which 0 ends a text."""
    tokenizers = pytest.importorskip('tokenizers')
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    model.pre_tokenizer = byte_level(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=['<|endoftext|>'],
        initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(TEXTS * 9, trainer)
    path = tmp_path_factory.mktemp('bpe') / 'tokenizer.json'
    model.save(str(path))
    return str(path)

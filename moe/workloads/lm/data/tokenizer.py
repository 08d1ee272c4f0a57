"""Tokenizers: bytes, and any `tokenizer.json` by the library `tokenizers`.

V token ids.
"""

import abc
import functools
import hashlib
import importlib
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from moe.config import ConfigError

# Tokens by which published tokenizers end a text, the likeliest first.
_END_OF_TEXT = (
    '<|endoftext|>',
    '<|end_of_text|>',
    '<|eot_id|>',
    '</s>',
    '<eos>',
    '<|im_end|>',
    '[SEP]',
)


class Tokenizer(abc.ABC):
    """Text as token ids.

    Attributes:
      vocab_size: V; every id is less than it.
      end_of_text: the id that ends a document.
      digest: identifies the tokenizer.
    """

    vocab_size: int
    end_of_text: int | None
    digest: str

    @abc.abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Returns the ids of a text, int32 [N]."""

    @abc.abstractmethod
    def encode_all(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        """Returns the ids of several texts in UTF-8, without an end of text."""

    @abc.abstractmethod
    def decode(self, ids: np.ndarray) -> str:
        """Returns the text of ids [N]."""

    @abc.abstractmethod
    def pieces(self, ids: np.ndarray) -> list[str]:
        """Returns the text of each of the ids [N] by itself."""

    @abc.abstractmethod
    def token_bytes(self) -> np.ndarray:
        """Returns the number of bytes of text of each id, int32 [V]."""


class Bytes(Tokenizer):
    """The bytes of UTF-8; a zero byte stands between documents."""

    vocab_size = 256
    end_of_text = 0
    digest = 'bytes'

    def encode(self, text):
        """Returns the bytes."""
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def encode_all(self, texts):
        """Returns the bytes of each."""
        return [np.frombuffer(text, np.uint8) for text in texts]

    def decode(self, ids):
        """Returns the text, with a mark for bytes that are not UTF-8."""
        text = bytes(np.asarray(ids, np.uint8)).decode(errors='replace')
        return text.replace('\0', '\n')

    def pieces(self, ids):
        """Returns the character of each byte, '' for one without a glyph."""
        shown = lambda c: 32 <= c < 127 or chr(c) in '\t\n'
        return [chr(c) if shown(c) else '' for c in ids]

    def token_bytes(self):
        """Returns 1 for each."""
        return np.ones(256, np.int32)


class FileTokenizer(Tokenizer):
    """The tokenizer of a `tokenizer.json`.

    Args:
      text: contents of the file.

    Attributes:
      text: the same.

    Raises:
      ValueError: for contents that are none.
    """

    def __init__(self, text: str):
        library = _library()
        try:
            self._model = library.Tokenizer.from_str(text)
        except Exception as error:  # the library has no type of its own
            raise ValueError(str(error)) from None
        self.text = text
        self._model.no_truncation()
        self._model.no_padding()
        names = self._model.get_vocab(with_added_tokens=True)
        self.vocab_size = max(names.values(), default=0) + 1
        ends = (names[name] for name in _END_OF_TEXT if name in names)
        self.end_of_text = next(ends, None)
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        parsed = json.loads(text)
        self._byte_level = 'ByteLevel' in _types(parsed.get('decoder'))
        special = parsed.get('added_tokens') or ()
        self._special = {t['id'] for t in special if t.get('special')}

    def encode(self, text):
        """Returns the ids, without special ones at the ends."""
        found = self._model.encode(text, add_special_tokens=False)
        return np.array(found.ids, np.int32)

    def encode_all(self, texts):
        """Returns the ids of each text, by the library's own threads."""
        decoded = [text.decode(errors='replace') for text in texts]
        found = self._model.encode_batch_fast(decoded, add_special_tokens=False)
        return [np.array(one.ids, np.uint32) for one in found]

    def decode(self, ids):
        """Returns the text; a special token is its name."""
        numbers = [int(i) for i in ids]
        return self._model.decode(numbers, skip_special_tokens=False)

    @functools.cached_property
    def _contents(self) -> list[bytes]:
        """The bytes of text of each id; those of a special token are its name.

        A byte-level vocabulary writes each byte as one character; others have
        a mark for a blank and `<0x0A>` for a byte.
        """
        alphabet = {c: b for b, c in byte_characters().items()}
        found = []
        for number in range(self.vocab_size):
            name = self._model.id_to_token(number) or ''
            if number in self._special:
                found.append(name.encode())
            elif self._byte_level and all(c in alphabet for c in name):
                found.append(bytes(alphabet[c] for c in name))
            elif len(name) == 6 and name.startswith('<0x'):
                found.append(bytes.fromhex(name[3:5]))
            else:
                found.append(name.replace('\u2581', ' ').encode())
        return found

    def pieces(self, ids):
        """Returns the text of each id, '' for part of a character."""
        texts = [self._contents[int(i)].decode(errors='ignore') for i in ids]
        shown = lambda text: text.isprintable() or text.isspace()
        return [text if shown(text) else '' for text in texts]

    def token_bytes(self):
        """Returns the lengths; 0 for special tokens, which are no text."""
        sizes = [len(text) for text in self._contents]
        for number in self._special:
            sizes[number] = 0
        return np.array(sizes, np.int32)


def read_tokenizer(path: str, field: str = 'tokenizer') -> Tokenizer:
    """Returns the tokenizer of a file; that of bytes without one.

    Args:
      path: path of a `tokenizer.json`, or of a folder with one; '' for bytes.
      field: the config field that holds the path, for messages.

    Raises:
      ConfigError: for a file that cannot be read, or without the library.
    """
    if not path:
        return Bytes()
    file = os.path.join(path, 'tokenizer.json') if os.path.isdir(path) else path
    try:
        return _read(file, os.stat(file).st_mtime_ns)
    except OSError as error:
        allowed = f'the path of a tokenizer.json ({error.strerror})'
    except ImportError:
        allowed = "'' without tokenizers: pip install 'moe[text]'"
    except ValueError as error:
        allowed = f'the path of a tokenizer.json ({error})'
    raise ConfigError(field, path, allowed)


@functools.lru_cache(8)
def _read(path: str, changed: int) -> Tokenizer:
    del changed  # of the key
    with open(path, encoding='utf-8') as file:
        return FileTokenizer(file.read())


def _library() -> Any:
    # The threads of the library would be lost in a fork that follows.
    os.environ.setdefault('TOKENIZERS_PARALLELISM', 'true')
    return importlib.import_module('tokenizers')


def _types(decoder: Any) -> set[str]:
    """Returns the types of a decoder and of those inside it."""
    if not isinstance(decoder, dict):
        return set()
    inner = decoder.get('decoders') or ()
    return {str(decoder.get('type'))}.union(*(_types(d) for d in inner))


@functools.cache
def byte_characters() -> dict[int, str]:
    """Returns the character by which byte-level vocabularies write a byte.

    Visible characters of Latin-1 are themselves, the other bytes follow from
    U+0100 on. Source: GPT-2's `bytes_to_unicode`.
    """
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    found = {b: chr(b) for b in visible}
    return found | {b: chr(256 + i) for i, b in enumerate(hidden)}


def train_bpe(texts: Iterable[str], vocab_size: int) -> str:
    """Trains a byte-level BPE; its id 0 is `<|endoftext|>`.

    Any bytes can be encoded. Sources: arXiv 1508.07909; GPT-2, which cuts
    text into words first.

    Args:
      texts: what to train on.
      vocab_size: V, at least 257.

    Returns:
      Contents of a `tokenizer.json`.

    Raises:
      ImportError: without the library.
    """
    library = _library()
    model = library.Tokenizer(library.models.BPE())
    byte_level = library.pre_tokenizers.ByteLevel
    model.pre_tokenizer = byte_level(add_prefix_space=False)
    model.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=['<|endoftext|>'],
        initial_alphabet=sorted(byte_level.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    return model.to_str()

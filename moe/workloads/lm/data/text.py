"""The data source of text files, each a document."""

import dataclasses
import pathlib
import sysconfig
from collections.abc import Sequence

import numpy as np

from moe.workloads.data_files import check_memory, compression
from moe.workloads.lm.data.blob import Piece
from moe.workloads.lm.data.sources import SOURCES
from moe.workloads.lm.data.texts import BLOCK, IN_MEMORY, Text, Texts
from moe.workloads.lm.data.tokenizer import Bytes
from moe.workloads.lm.data.tokens import InMemory, Joined, Mapped, Tokens

_WHOLE = 2**24  # bytes of a file that is encoded as one; longer ones by lines
_NOT_PROSE = {
    '__pycache__',
    'dist-packages',
    'encodings',
    'idlelib',
    'pydoc_data',
    'site-packages',
    'test',
    'tests',
}


@SOURCES.register('text')
@dataclasses.dataclass(frozen=True)
class TextFiles(Texts):
    """Text files, each a document, as bytes or as tokens of a tokenizer.

    Without `files` it is the source code of Python's standard library. Files
    are decompressed, and one that is there several times is read once. They
    are in the order of their contents' hashes, and the first bytes are for
    validation: names, folders and the order of a listing do not matter. A zero
    byte stands between documents of bytes; others end with the tokenizer's end
    of text.

    Attributes:
      files: path or glob of text files, or a folder; '' is Python's standard
        library.
      val_fraction: share that is for validation, at least one sequence.
      tokenizer: path of a `tokenizer.json`; '' for bytes.
      split: what is split: the bytes, and the file that lies on the border is
        cut at an end of line; or whole documents, by their hashes alone, so
        that a further document moves no other.
    """

    def names(self):
        """Returns the paths of the files."""
        return super().names() if self.files else _library()

    def stream(self, texts, tokenizer):
        """Returns small text in memory, and large plain files mapped."""
        size = sum(text.size + 1 for text in texts)
        if not isinstance(tokenizer, Bytes) or not texts:
            return super().stream(texts, tokenizer)
        if size <= IN_MEMORY:
            return self._in_memory(texts, size), {}
        if all(text.size >= BLOCK and _is_plain(text) for text in texts):
            parts = [Mapped(t.path, '<u1', 0, t.size) for t in texts]
            return Joined(parts, separator=0), {}
        return super().stream(texts, tokenizer)

    def _in_memory(self, texts: Sequence[Text], size: int) -> Tokens:
        check_memory(size, 'files', self.files)
        tokens = np.zeros(max(size - 1, 0), np.uint8)
        starts, start = [], 0
        for text in texts:
            starts.append(start)
            self._read(text, tokens[start : start + text.size])
            start += text.size + 1
        return InMemory(tokens, starts)

    def _read(self, text: Text, out: np.ndarray) -> None:
        """Reads the bytes of a file into an array [size]."""
        with self.opened(text.path) as stream:
            if stream.readinto(out.data) != text.size or stream.read(1):
                raise self.refuse(text.path, 'being written')

    def documents(self, text):
        """Yields the file, a long one in parts that end with a line."""
        with self.opened(text.path) as stream:
            left = text.size
            while left > 0:
                block = stream.read(_WHOLE)
                if left > len(block):
                    block += stream.readline(_WHOLE)
                left -= len(block)
                if not block or left < 0:
                    raise self.refuse(text.path, 'being written')
                yield Piece(block, text.digest, left == 0)


def _is_plain(text: Text) -> bool:
    """Whether the bytes of a file are its text as they are."""
    with open(text.path, 'rb') as file:
        return compression(file.read(10)) is None


def _library() -> list[str]:
    root = pathlib.Path(sysconfig.get_paths()['stdlib'])
    return [
        str(path)
        for path in root.rglob('*.py')
        if path.is_file() and not _NOT_PROSE & {*path.relative_to(root).parts}
    ]

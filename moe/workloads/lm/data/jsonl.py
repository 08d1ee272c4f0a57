"""The data source of JSON objects, one a line, each with a text."""

import dataclasses
import hashlib
import json
from typing import Literal

from moe.workloads.lm.data.blob import Piece
from moe.workloads.lm.data.sources import SOURCES
from moe.workloads.lm.data.texts import Texts


@SOURCES.register('jsonl')
@dataclasses.dataclass(frozen=True)
class JSONLines(Texts):
    """Files of JSON objects, one a line, each with a document of text.

    Files are decompressed, and one that is there several times is read once;
    documents that are there several times are counted, and split by documents
    they are all for training, or all for validation.

    Attributes:
      files: path or glob of the files, or a folder.
      val_fraction: share that is for validation; it is doubled, up to a half,
        until there is one sequence at least.
      tokenizer: path of a `tokenizer.json`; '' for bytes.
      split: what is split: whole documents, by their hashes alone, so that a
        further document moves no other; or the bytes, of which the first
        validate, up to the end of a document or a line.
      field: name of the text in each object.
    """

    files: str = ''
    split: Literal['bytes', 'documents'] = 'documents'
    field: str = 'text'

    def documents(self, text):
        """Yields the text of each line."""
        with self.opened(text.path) as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                document = row_text(line, self.field)
                if document is None:
                    what = f'without a text {self.field!r} in line {number}'
                    raise self.refuse(text.path, what)
                if document:
                    digest = hashlib.sha256(document).digest()
                    yield Piece(document, digest, True)

    def read_as(self):
        """Returns the format and the field."""
        return f'jsonl {self.field}'


def row_text(line: bytes, field: str) -> bytes | None:
    """Returns the text of a line of JSON in UTF-8; None if it has none.

    Args:
      line: a JSON object.
      field: name of the text.
    """
    try:
        text = json.loads(line)[field]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(text, str):
        return None
    return text.encode(errors='replace')

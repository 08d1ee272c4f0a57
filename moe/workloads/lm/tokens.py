"""Text as tokens: the bytes of its UTF-8."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

# Stands between files, where a reader expects a new line.
_SEPARATOR = b'\0'


def encode(text: str) -> Int[np.ndarray, 'N']:
    """Returns the token ids of a text, int32.

    >>> encode('hi').tolist()
    [104, 105]
    """
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32)


def decode(tokens: Int[np.ndarray, 'N']) -> str:
    """Returns the text of token ids.

    Args:
      tokens: integers from 0 to 255.

    Returns:
      Text with a replacement mark for bytes that are not UTF-8.

    >>> decode(np.array([104, 105]))
    'hi'
    """
    raw = np.asarray(tokens).astype(np.uint8).tobytes()
    return raw.replace(_SEPARATOR, b'\n').decode(errors='replace')


def characters(tokens: Int[np.ndarray, 'N']) -> Sequence[str]:
    """Returns the character of each token alone; '' for one without a glyph.

    Args:
      tokens: integers from 0 to 255.

    >>> characters(np.array([104, 10, 200]))
    ['h', '\\n', '']
    """
    return [_character(int(token)) for token in tokens]


def _character(token: int) -> str:
    printable = 32 <= token < 127 or chr(token) in '\t\n'
    return chr(token) if printable else ''

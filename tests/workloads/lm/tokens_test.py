"""Text as bytes, and back."""

import numpy as np
import pytest

from moe.workloads.lm import tokens


@pytest.mark.parametrize('text', ['', 'plain', 'a\tb\nc', 'caf\u00e9 \u20ac'])
def test_text_comes_back(text):
    ids = tokens.encode(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == list(text.encode())
    assert tokens.decode(ids) == text


def test_bytes_that_are_no_text_are_shown_as_marks():
    # A zero byte ends a file; a byte above 127 alone is not UTF-8.
    assert tokens.decode(np.array([104, 105, 0, 255])) == 'hi\n\ufffd'


def test_characters():
    shown = tokens.characters(np.arange(256))
    assert len(shown) == 256
    for token in range(256):
        visible = token in (9, 10) or 32 <= token < 127
        assert shown[token] == (chr(token) if visible else '')

"""Texts for a shell, bash, that no value in them can escape."""

import os
import shlex
from collections.abc import Iterable

from moe.config import ConfigError


def quote(text: str) -> str:
    r"""Returns a word that bash reads as the text, on one line.

    Whatever is not printable becomes an escape of `$'...'`, so that neither a
    here-document nor a line of another file that holds the word can end in it.

    Args:
      text: any text without NUL, which no argument of a program has.

    >>> print(quote('a'), quote('a b'), quote("it's\nEND"))
    a 'a b' $'it\x27s\x0aEND'
    """
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + ''.join(map(_escaped, text)) + "'"


def _escaped(character: str) -> str:
    if character.isprintable() and character not in "\\'":
        return character
    return ''.join(f'\\x{byte:02x}' for byte in os.fsencode(character))


def join(words: Iterable[str]) -> str:
    """Returns a command line of words, each quoted."""
    return ' '.join(map(quote, words))


def words(field: str, text: str) -> list[str]:
    """Returns the words of a text as a shell reads them.

    Args:
      field: where the text is given.
      text: the text.

    Raises:
      ConfigError: for a quote that does not end.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        allowed = f'as a shell takes it ({error})'
        raise ConfigError(field, text, allowed) from None


def here_document(command: str, text: str) -> list[str]:
    """Returns the lines of a command with a text as its standard input.

    Args:
      command: the command line, quoted.
      text: lines, of which none is the word that ends the document.
    """
    lines = text.removesuffix('\n').split('\n')
    end = 'END'
    while end in lines:
        end += '_'
    return [f"{command} <<'{end}'", *lines, end]

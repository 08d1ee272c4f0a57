"""What bash reads of the words and texts that are made for it."""

import json
import subprocess
import sys

import pytest

from launch import shell

# Each of them ends or runs something where it is not quoted by content.
HOSTILE = (
    '\nEND\ntouch effect\n',
    'END',
    '\nEND\nEND_\nEND__\n',
    '$(touch effect)',
    '`touch effect`',
    '${HOME}',
    '"; touch effect; "',
    "'; touch effect; '",
    "$'\\x41'",
    '; rm -rf .',
    '&& touch effect #',
    '| tee effect',
    '> effect',
    '--version',
    '-rf',
    '\r\ntouch effect',
    '\x85touch effect',
    '\u2028touch effect',
    '\u2029touch effect',
    '\x0b\x0c\x1c\x1b[2J\x07\x7f',
    '\\',
    '\\\n',
    '!!',
    '~',
    '*',
    '#',
    '%A',
    '',
    ' ',
    '\t',
    "it's",
    '{"a": [1, 2]}',
    '<b>&amp;',
    'caf\xe9 \U0001f600',
    'caf\udce9',  # a byte of a name that is no UTF-8
)
SHOW = (
    sys.executable,
    '-ISc',
    'import json, sys; print(json.dumps(sys.argv[1:]))',
)


def bash(script, folder):
    """The output of a script; nothing but its commands may have an effect."""
    done = subprocess.run(
        ['bash'],
        input=script.encode('utf-8', 'surrogateescape'),
        cwd=folder,
        capture_output=True,
        check=True,
    )
    assert done.stderr == b''
    assert list(folder.iterdir()) == []
    return done.stdout


def test_words_arrive_as_they_are(tmp_path):
    line = shell.join([*SHOW, *HOSTILE])
    assert len(line.splitlines()) == 1
    assert tuple(json.loads(bash(line, tmp_path))) == HOSTILE
    # As an argument of another shell, as of a host that is reached by ssh.
    outer = shell.join(['bash', '-c', line])
    assert tuple(json.loads(bash(outer, tmp_path))) == HOSTILE


@pytest.mark.parametrize('text', [h for h in HOSTILE if '\udce9' not in h])
def test_texts_arrive_as_they_are(tmp_path, text):
    lines = shell.here_document('cat', f'first\n{text}\nlast\n')
    found = bash('\n'.join([*lines, 'echo end']), tmp_path).decode()
    assert found == f'first\n{text}\nlast\nend\n'

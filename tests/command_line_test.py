"""Every mistake on a command line becomes one line with a field in it."""

import errno
import io
import subprocess
import sys

import pytest
from absl import flags

from moe import command_line
from moe.config import ConfigError, Damaged, Text

CONFIG = """
import ml_collections

def get_config(variant='small'):
    if variant != 'small':
        raise ValueError('a variant among small')
    config = ml_collections.ConfigDict()
    config.steps = 3
    config.model = ml_collections.ConfigDict({'width': 4})
    return config
"""


@pytest.fixture
def read(tmp_path):
    """Reads a command line against flags and a config file of its own."""
    path = tmp_path / 'config.py'
    path.write_text(CONFIG)

    def run(*arguments, config=str(path)):
        values = flags.FlagValues()
        command_line.define_config(values)
        flags.DEFINE_integer('length', 4, 'Any.', flag_values=values)
        given = [] if config is None else [f'--config={config}']
        return command_line.read_config(values, ['program', *given, *arguments])

    return run


def test_the_file_and_the_overrides(read):
    given = read('--config.steps=7', '--length=5', '--config.model.width=8')
    assert given.plain == {'steps': 3, 'model': {'width': 4}}
    assert given.overrides == [('steps', '7'), ('model.width', '8')]
    assert all(isinstance(text, Text) for _, text in given.overrides)
    assert given.source.endswith('config.py')
    # Whatever a value holds.
    given = read('--config.name=a=b c', '--config.empty=')
    assert given.overrides == [('name', 'a=b c'), ('empty', '')]


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        (
            'config.steps=7',
            "arguments = 'config.steps=7': must be absent "
            '(a flag starts with --)',
        ),
        (
            '--config.steps',
            "--config.steps = '': must be given as --config.NAME=VALUE",
        ),
        (
            '--config.model.=1',
            "--config.model.=1 = '1': must be given as --config.NAME=VALUE",
        ),
        (
            '--config.=1',
            "--config.=1 = '1': must be given as --config.NAME=VALUE",
        ),
        ('--length=x', "length = 'x': must be an int"),
        (
            '--confgi=x',
            "--confgi = 'x': must be absent: no such flag (nearest: --config)",
        ),
    ],
)
def test_mistake_in_one_line(read, argument, message):
    with pytest.raises(ConfigError) as error:
        read(argument)
    assert str(error.value) == message


def test_help_lists_the_flags(read, capsys):
    with pytest.raises(SystemExit) as ended:
        read('--help')
    assert ended.value.code == 0
    assert '--config' in capsys.readouterr().out


def test_unknown_variant(read, tmp_path):
    with pytest.raises(ConfigError, match=r'^--config = .*a variant among'):
        read(config=f'{tmp_path}/config.py:large')


def test_no_config(read):
    with pytest.raises(ConfigError, match=r'^--config = None: must be given$'):
        read(config=None)


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        (None, 'No such file'),
        ('x = (', 'broken.py:1: SyntaxError'),
        ('\nraise KeyError("a")', 'broken.py:2: KeyError'),
        ('import no_such_module', 'ModuleNotFoundError'),
        ('import sys; sys.exit(3)', 'SystemExit: 3'),
        ('x = 1', 'a file with get_config'),
        ('def get_config(): return None', 'returns a ConfigDict (not None)'),
        ('def get_config(): return [1]', 'returns a ConfigDict (not [1])'),
        ('def get_config(a, b): return {}', 'TypeError'),
        ('raise ValueError("one\\ntwo\\r\\nthree")', 'one two three'),
        ('raise KeyError("\\x1b[2J")', r'x1b[2J'),
        ('raise GeneratorExit', 'broken.py:1: GeneratorExit'),
        ('x = 1\0', 'broken.py:1: SyntaxError'),
        ('def get_config(): return get_config()', 'RecursionError'),
    ],
)
def test_config_files_that_give_no_config(read, tmp_path, text, reason):
    path = tmp_path / 'broken.py'
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read(config=str(path))
    assert str(error.value).startswith('--config = ')
    assert reason in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize('path', ['a\0b', 'x' * 300, '.', 'gs://b/c.py', ''])
def test_paths_of_no_config_file(read, path):
    with pytest.raises(ConfigError, match=r'^--config = .*\(No such file\)$'):
        read(config=path)


@command_line.command('name')
def failing(argv):
    """Raises what it is given, or prints it."""
    if isinstance(argv[0], Exception):
        raise argv[0]
    print(argv[0])
    return 0


@pytest.mark.parametrize(
    ('error', 'code', 'line'),
    [
        (ConfigError('a', 1, '2'), 2, 'name: a = 1: must be 2'),
        (Damaged('all of them'), 3, 'name: all of them'),
        (
            OSError(errno.ENOSPC, 'No space left on device', 'f'),
            1,
            "name: 'f': No space left on device",
        ),
        (
            OSError(errno.EFBIG, 'File too large'),
            1,
            'name: File too large',
        ),
        (
            OSError(errno.EACCES, 'Permission denied', 'f'),
            2,
            "name: 'f': Permission denied",
        ),
    ],
)
def test_mistakes_and_full_disks_are_one_line(capsys, error, code, line):
    assert failing([error]) == code
    assert capsys.readouterr() == ('', f'{line}\n')


@pytest.mark.parametrize('error', [OSError('x'), KeyError('x')])
def test_faults_of_the_program_keep_their_traceback(error):
    with pytest.raises(type(error)):
        failing([error])


def test_names_that_a_stream_cannot_encode(monkeypatch):
    # A Latin-1 name, as Python reads it in UTF-8, and one in UTF-8.
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding='ascii')
    monkeypatch.setattr(sys, 'stdout', stream)
    assert failing(['caf\udce9 \xfc']) == 0
    stream.flush()
    assert raw.getvalue() == b'caf\\udce9 \\xfc\n'


WRITES = """
import sys
from moe import command_line
@command_line.command('words')
def main(argv):
    for _ in range(int(argv[1])):
        print('a word')
    if len(argv) > 2:
        raise KeyboardInterrupt
    return 0
sys.exit(main(sys.argv))
"""


@pytest.mark.parametrize('lines', [1, 100_000])
def test_a_reader_that_ends(lines):
    # As with `| head -1`, whether all of it was in the buffer or not.
    with subprocess.Popen(
        [sys.executable, '-c', WRITES, str(lines)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b''
    assert process.returncode == 128 + 13


def test_an_interrupt_is_one_line():
    done = subprocess.run(
        [sys.executable, '-c', WRITES, '1', 'interrupted'],
        capture_output=True,
    )
    assert (done.returncode, done.stdout) == (130, b'a word\n')
    assert done.stderr == b'words: interrupted\n'

"""Every mistake on a command line becomes one line with a field in it."""

import pytest
from absl import flags
from ml_collections import config_flags

from moe import command_line
from moe.config import ConfigError

CONFIG = """
import ml_collections

def get_config(variant='small'):
    if variant != 'small':
        raise ValueError('a variant among small')
    config = ml_collections.ConfigDict()
    config.steps = 3
    config.rate = 0.5
    config.quiet = False
    config.model = ml_collections.ConfigDict({'width': 4})
    return config
"""


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Reads a command line against flags and a config file of its own."""
    path = tmp_path / 'config.py'
    path.write_text(CONFIG)

    def run(*arguments, config=str(path)):
        values = flags.FlagValues()
        config_flags.DEFINE_config_file(
            'config', None, 'A config.', flag_values=values
        )
        given = [] if config is None else [f'--config={config}']
        argv = ['program', *given, *arguments]
        monkeypatch.setattr('sys.argv', argv)  # where overrides are read
        return command_line.read_config(values, argv)

    return run


def test_overrides_arrive(read):
    assert read('--config.steps=7', '--config.model.width=8') == {
        'steps': 7,
        'rate': 0.5,
        'quiet': False,
        'model': {'width': 8},
    }


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        (
            '--config.stepps=7',
            "config.stepps = '7': must be absent: no such field "
            '(nearest: steps)',
        ),
        (
            '--config.model.widht=7',
            "config.model.widht = '7': must be absent: no such field "
            '(nearest: width)',
        ),
        (
            '--config.steps.more=7',
            "config.steps.more = '7': must be absent: no such field",
        ),
        ('--config.steps=x', "config.steps = 'x': must be an int"),
        ('--config.steps=1.5', "config.steps = '1.5': must be an int"),
        ('--config.rate=x', "config.rate = 'x': must be a float"),
        ('--config.quiet=x', "config.quiet = 'x': must be true or false"),
        (
            '--config.model=3',
            "config.model = '3': must be a section, as {name: value}",
        ),
        (
            'config.steps=7',
            "arguments = 'config.steps=7': must be absent "
            '(a flag starts with --)',
        ),
    ],
)
def test_mistake_in_one_line(read, argument, message):
    with pytest.raises(ConfigError) as error:
        read(argument)
    assert str(error.value) == message


def test_unknown_flag(read):
    with pytest.raises(ConfigError) as error:
        read('--confgi=x')
    assert str(error.value) == (
        "--confgi = 'x': must be absent: no such flag (nearest: --config)"
    )


def test_help_lists_the_flags(read, capsys):
    with pytest.raises(SystemExit) as ended:
        read('--help')
    assert ended.value.code == 0
    assert '--config' in capsys.readouterr().out


def test_unknown_variant(read, tmp_path):
    with pytest.raises(ConfigError, match=r'^config = .*a variant among'):
        read(config=f'{tmp_path}/config.py:large')


def test_no_config(read):
    with pytest.raises(ConfigError, match=r'^--config = None: must be given$'):
        read(config=None)


@pytest.mark.parametrize('overrides', [[], ['--config.steps=40']])
def test_no_such_file(read, tmp_path, overrides):
    with pytest.raises(ConfigError, match='No such file') as error:
        read(*overrides, config=f'{tmp_path}/absent.py')
    assert str(error.value).startswith('--config = ')
    assert '\n' not in str(error.value)

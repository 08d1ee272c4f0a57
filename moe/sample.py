"""`python -m moe.sample --workdir=DIR --prompt=TEXT`: text from a run."""

import json
import pathlib
import sys

from absl import flags

from moe import training
from moe.command_line import read_flags
from moe.config import ConfigError, parse
from moe.training.checkpoint import restore_run

_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.')
_PROMPT = flags.DEFINE_string('prompt', 'def ', 'Text to continue.')
_LENGTH = flags.DEFINE_integer('length', 400, 'Bytes to generate.', 1)
_TEMPERATURE = flags.DEFINE_float(
    'temperature', 0.7, 'Divides the logits; 0 takes the likeliest byte.', 0.0
)
_TOP = flags.DEFINE_integer(
    'top', 0, 'Draws among the likeliest bytes only; 0 among all.', 0, 256
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of the draw.')


def main(argv: list[str]) -> int:
    """Prints the prompt and its continuation; returns the exit code."""
    try:
        read_flags(argv)
        if not _PROMPT.value:
            raise ConfigError('--prompt', _PROMPT.value, 'at least one byte')
        path = pathlib.Path(_WORKDIR.value or '.')
        if not (path / 'config.json').exists():
            raise ConfigError('--workdir', _WORKDIR.value, "a run's folder")
        plain = json.loads((path / 'config.json').read_text())
        config = parse(training.Config, plain)
        state = restore_run(config, path)
    except ConfigError as error:
        print(f'moe.sample: {error}', file=sys.stderr)
        return 2
    text = training.sample(
        config,
        state,
        _PROMPT.value,
        _LENGTH.value,
        seed=_SEED.value,
        temperature=_TEMPERATURE.value,
        top=_TOP.value,
    )
    print(_PROMPT.value + text)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv))

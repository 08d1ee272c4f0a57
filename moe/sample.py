"""`python -m moe.sample --workdir=DIR --prompt=TEXT`: text from a run."""

import pathlib
import sys

from absl import flags

from moe.command_line import read_flags
from moe.config import ConfigError
from moe.training.checkpoint import restore_run
from moe.workloads import registry
from moe.workloads.lm.workload import LanguageConfig, sample

_FLAGS = flags.FlagValues()
flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=_FLAGS)
flags.DEFINE_string('prompt', 'def ', 'Text to continue.', flag_values=_FLAGS)
flags.DEFINE_integer('length', 400, 'Bytes to generate.', 1, flag_values=_FLAGS)
flags.DEFINE_float(
    'temperature',
    0.7,
    'Divides the logits; 0 takes the likeliest byte.',
    0.0,
    flag_values=_FLAGS,
)
flags.DEFINE_integer(
    'top',
    0,
    'Draws among the likeliest bytes only; 0 among all.',
    0,
    256,
    flag_values=_FLAGS,
)
flags.DEFINE_integer('seed', 0, 'Of the draw.', flag_values=_FLAGS)


def main(argv: list[str]) -> int:
    """Prints the prompt and its continuation; returns the exit code."""
    try:
        read_flags(_FLAGS, argv)
        if not _FLAGS.prompt:
            raise ConfigError('--prompt', _FLAGS.prompt, 'at least one byte')
        path = pathlib.Path(_FLAGS.workdir or '.')
        config = registry.read_run(path)
        if not isinstance(config, LanguageConfig):
            allowed = 'the folder of a language model'
            raise ConfigError('workdir', str(path), allowed)
        state = restore_run(config, path)
    except ConfigError as error:
        print(f'moe.sample: {error}', file=sys.stderr)
        return 2
    text = sample(
        config,
        state.variables,
        _FLAGS.prompt,
        _FLAGS.length,
        seed=_FLAGS.seed,
        temperature=_FLAGS.temperature,
        top=_FLAGS.top,
    )
    print(_FLAGS.prompt + text)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv))

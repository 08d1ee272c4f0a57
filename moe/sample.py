"""`python -m moe.sample --workdir=DIR --prompt=TEXT`: continues a text."""

import sys

from absl import flags

from moe.command_line import command, define_run, read_flags
from moe.config import ConfigError
from moe.config.constraints import check_unicode
from moe.programs import keep_programs
from moe.workloads.load import load

_FLAGS = flags.FlagValues()
define_run(_FLAGS)
flags.DEFINE_string('prompt', 'def ', 'Text to continue.', flag_values=_FLAGS)
flags.DEFINE_integer(
    'length', 400, 'Tokens to generate.', 1, flag_values=_FLAGS
)
flags.DEFINE_float(
    'temperature',
    0.7,
    'Divides the logits; 0 takes the likeliest token.',
    0.0,
    flag_values=_FLAGS,
)
flags.DEFINE_integer(
    'top',
    0,
    'Draws among this many likeliest tokens; 0 draws among all.',
    0,
    flag_values=_FLAGS,
)
flags.DEFINE_integer(
    'seed', 0, 'Seed of the draws.', 0, 2**32 - 1, flag_values=_FLAGS
)


@command('moe.sample')
def main(argv: list[str]) -> int:
    """Prints the prompt and its continuation; returns the exit code."""
    read_flags(_FLAGS, argv)
    if not _FLAGS.prompt:
        raise ConfigError('--prompt', _FLAGS.prompt, 'at least one byte')
    check_unicode('--prompt', _FLAGS.prompt)
    keep_programs()
    run = load(_FLAGS.workdir or '.', _FLAGS.step, _FLAGS.plugins)
    text = run.sample(
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

"""`python -m moe.sample --workdir=DIR --prompt=TEXT`: continues texts."""

import json
import pathlib
import sys
import time

from absl import flags

from moe.command_line import command, define_run, read_flags
from moe.config import ConfigError
from moe.config.constraints import check_unicode
from moe.programs import keep_programs
from moe.workloads.load import load

_FLAGS = flags.FlagValues()
define_run(_FLAGS)
flags.DEFINE_multi_string(
    'prompt',
    ['def '],
    'Text to continue; given again, all are continued in one batch.',
    flag_values=_FLAGS,
)
flags.DEFINE_string(
    'prompts_file',
    None,
    'File with a text to continue in each line, instead of --prompt.',
    flag_values=_FLAGS,
)
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
flags.DEFINE_float(
    'top_p',
    1.0,
    'Draws among the fewest likeliest tokens whose probabilities sum to it.',
    0.0,
    1.0,
    flag_values=_FLAGS,
)
flags.DEFINE_multi_integer(
    'stop', [], 'Id of a token that ends a text.', 0, flag_values=_FLAGS
)
flags.DEFINE_bool(
    'json',
    False,
    'Prints a line of JSON for each prompt: prompt and continuation.',
    flag_values=_FLAGS,
)
flags.DEFINE_integer(
    'seed', 0, 'Seed of the draws.', 0, 2**32 - 1, flag_values=_FLAGS
)


@command('moe.sample')
def main(argv: list[str]) -> int:
    """Prints prompts and their continuations; returns the exit code.

    A single one is printed as it is made. What the first chunk and the others
    took is printed to stderr.
    """
    read_flags(_FLAGS, argv)
    prompts = _prompts()
    keep_programs()
    run = load(_FLAGS.workdir or '.', _FLAGS.step, _FLAGS.plugins)
    stream = run.stream(
        prompts,
        _FLAGS.length,
        seed=_FLAGS.seed,
        temperature=_FLAGS.temperature,
        top=_FLAGS.top,
        top_p=_FLAGS.top_p,
        stop=tuple(_FLAGS.stop),
    )
    shown = len(prompts) == 1 and not _FLAGS.json
    made = [''] * len(prompts)
    times, counts = [time.monotonic()], list[int]()
    for texts, count in stream:
        if shown:
            start = '' if counts else prompts[0]
            print(start + texts[0], end='', flush=True)
        made = [old + new for old, new in zip(made, texts, strict=True)]
        times.append(time.monotonic())
        counts.append(count)
    if shown:
        print()
    else:
        for prompt, text in zip(prompts, made, strict=True):
            pair = {'prompt': prompt, 'continuation': text}
            print(json.dumps(pair) if _FLAGS.json else prompt + text)
    rest = sum(counts[1:])
    line = f'first tokens after {times[1] - times[0]:.2f} s, compiling included'
    if rest:
        line += f'; then {rest / (times[-1] - times[1]):.1f} tokens/s'
    print(line, file=sys.stderr)
    return 0


def _prompts() -> list[str]:
    """Returns the prompts of the command line, or of its file."""
    found = _FLAGS.prompt
    if (path := _FLAGS.prompts_file) is not None:
        if _FLAGS['prompt'].present:
            raise ConfigError('--prompts_file', path, 'absent beside --prompt')
        try:
            found = pathlib.Path(path).read_text(encoding='utf-8').splitlines()
        except (OSError, UnicodeDecodeError):
            allowed = 'a file with a text in each line'
            raise ConfigError('--prompts_file', path, allowed) from None
        if not found:
            raise ConfigError('--prompts_file', path, 'a file with lines')
    for prompt in found:
        if not prompt:
            raise ConfigError('--prompt', prompt, 'at least one byte')
        check_unicode('--prompt', prompt)
    return found


if __name__ == '__main__':
    sys.exit(main(sys.argv))

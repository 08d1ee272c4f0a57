"""`python -m moe.predict --workdir=DIR --input=FILE`: tables and images."""

import csv
import fnmatch
import glob
import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import IO, Any

from absl import flags

from moe.command_line import command, define_run, read_flags
from moe.config import ConfigError
from moe.files import replacing
from moe.programs import keep_programs
from moe.workloads.data_files import matching
from moe.workloads.load import load

_FLAGS = flags.FlagValues()
define_run(_FLAGS)
flags.DEFINE_string(
    'input',
    None,
    'Path or glob of the tables; of images and arrays, also a folder.',
    flag_values=_FLAGS,
)
flags.DEFINE_string(
    'output', '', "Where to write; '' is the screen.", flag_values=_FLAGS
)
flags.DEFINE_list(
    'columns',
    [],
    'Names of the columns if the tables have no header and other columns than '
    'those of the training.',
    flag_values=_FLAGS,
)
flags.DEFINE_enum(
    'on_error',
    'raise',
    ['raise', 'skip'],
    'What to do with a row, or an image, that cannot be used.',
    flag_values=_FLAGS,
)
flags.DEFINE_enum(
    'format',
    'csv',
    ['csv', 'jsonl'],
    'Whether lines are of CSV, below a header, or a JSON object each.',
    flag_values=_FLAGS,
)
flags.DEFINE_integer(
    'top',
    None,
    'Of images, the number of likeliest classes to write, each with its '
    'probability; None writes the likeliest and the probability of every '
    'class.',
    flag_values=_FLAGS,
)


@command('moe.predict')
def main(argv: list[str]) -> int:
    """Writes one line a row or an image: its number, and what is predicted.

    They are numbered from 1 over all inputs, those left out included. The
    output is there when it is whole.
    """
    read_flags(_FLAGS, argv)
    run = load(_FLAGS.workdir or '.', _FLAGS.step, _FLAGS.plugins)
    if not _FLAGS.input:
        raise ConfigError('--input', _FLAGS.input, 'a path or a glob')
    _check_output(_FLAGS.output, _FLAGS.input)
    keep_programs()
    inputs, left_out = _read(run)
    _ = run.variables  # damage is told before anything is written
    batches = run.predict_batches(inputs, left_out, top=_FLAGS.top)
    if _FLAGS.output:
        with replacing(_FLAGS.output, newline='', encoding='utf-8') as file:
            _write(file, batches)
    else:
        _write(sys.stdout, batches)
    for line in left_out.lines():
        print(f'moe.predict: {line}', file=sys.stderr)
    return 0


def _read(run: Any) -> tuple[Any, Any]:
    """Reads the inputs; a mistake in their path is one of the flag."""
    try:
        return run.read_inputs(
            _FLAGS.input, columns=_FLAGS.columns, on_error=_FLAGS.on_error
        )
    except ConfigError as error:
        flag = {'files': '--input', 'columns': '--columns'}.get(error.field)
        if flag is None:
            raise
        raise ConfigError(flag, error.value, error.allowed) from None


def _check_output(output: str, pattern: str) -> None:
    """Refuses an output that is one of the inputs, or would be one next time.

    Args:
      output: path of the output; '' is the screen.
      pattern: glob of the inputs.

    Raises:
      ConfigError: if the output is an input by any name, such as a link, or
        has no folder.
    """
    if os.path.isdir(pattern):  # every file below it
        pattern = os.path.join(pattern, '**')
    inputs = matching(pattern, '--input')
    if not output:
        return
    home, name = os.path.split(os.path.realpath(output))
    if not os.path.isdir(home):
        allowed = 'a path in a folder that exists'
        raise ConfigError('--output', output, allowed)
    if os.path.exists(output):
        taken = any(os.path.samefile(output, path) for path in inputs)
    else:
        folder, names = os.path.split(pattern)
        folders = pattern if names == '**' else folder or '.'
        taken = fnmatch.fnmatch(name, names) and any(
            os.path.realpath(path) == home
            for path in glob.glob(folders, recursive=True)
        )
    if taken:
        allowed = f'no file of the input {pattern!r}'
        raise ConfigError('--output', output, allowed)


def _write(file: IO, batches: Iterable[Mapping[str, list[Any]]]) -> None:
    """Writes predictions batch by batch, each before the next is made."""
    if _FLAGS.format == 'jsonl':
        for columns in batches:
            for row in zip(*columns.values(), strict=True):
                found = dict(zip(columns, row, strict=True))
                file.write(json.dumps(found, allow_nan=False) + '\n')
        return
    writer = csv.writer(file, lineterminator='\n')
    for i, columns in enumerate(batches):
        if not i:
            writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


if __name__ == '__main__':
    sys.exit(main(sys.argv))

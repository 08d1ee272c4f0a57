"""`python -m moe.predict --workdir=DIR --input=FILE`: predicts for a table."""

import csv
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from absl import flags

from moe.command_line import command, define_run, read_flags
from moe.config import ConfigError
from moe.workloads.load import load

_FLAGS = flags.FlagValues()
define_run(_FLAGS)
flags.DEFINE_string(
    'input',
    None,
    'Path or glob of the tables.',
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
    'What to do with a row that cannot be used.',
    flag_values=_FLAGS,
)


@command('moe.predict')
def main(argv: list[str]) -> int:
    """Writes one line a row: the probability, class or number of each task."""
    try:
        read_flags(_FLAGS, argv)
        run = load(_FLAGS.workdir or '.', _FLAGS.step, _FLAGS.plugins)
        if not _FLAGS.input:
            raise ConfigError('--input', _FLAGS.input, 'a path or a glob')
        table, left_out = run.read_table(
            _FLAGS.input, columns=_FLAGS.columns, on_error=_FLAGS.on_error
        )
        _ = run.variables  # damage is told before anything is written
        batches = run.predict_batches(table)
        if _FLAGS.output:
            with open(_FLAGS.output, 'w', newline='') as file:
                _write(file, batches)
        else:
            _write(sys.stdout, batches)
    except (ConfigError, OSError) as error:
        if isinstance(error, ConfigError) and error.field == 'files':
            error = ConfigError('--input', error.value, error.allowed)
        print(f'moe.predict: {error}', file=sys.stderr)
        return 2
    if left_out.count:
        places = ', '.join(left_out.places)
        more = ', ...' if left_out.count > len(left_out.places) else ''
        line = f'{left_out.count} rows left out: {places}{more}'
        print(f'moe.predict: {line}', file=sys.stderr)
    return 0


def _write(file: TextIO, batches: Iterable[Mapping[str, list[Any]]]) -> None:
    """Writes predictions batch by batch, each before the next is made."""
    writer = csv.writer(file, lineterminator='\n')
    for i, columns in enumerate(batches):
        if not i:
            writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


if __name__ == '__main__':
    sys.exit(main(sys.argv))

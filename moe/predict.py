"""`python -m moe.predict --workdir=DIR --input=FILE`: for rows of a table."""

import csv
import pathlib
import sys
from typing import TextIO

import jax
from absl import flags

from moe.command_line import read_flags
from moe.config import ConfigError
from moe.training.checkpoint import restore_run
from moe.workloads import registry
from moe.workloads.multitask.data import rows
from moe.workloads.multitask.data.tables import apply_table
from moe.workloads.multitask.tabular import TableRun

_FLAGS = flags.FlagValues()
flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=_FLAGS)
flags.DEFINE_string(
    'input',
    None,
    'Tables, a path or a glob.',
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


def main(argv: list[str]) -> int:
    """Writes one line a row: the probability, class or number of each task."""
    try:
        read_flags(_FLAGS, argv)
        workdir = pathlib.Path(_FLAGS.workdir or '.')
        config = registry.read_run(workdir)
        if not isinstance(config, TableRun):
            allowed = 'the folder of a run on a table'
            raise ConfigError('workdir', str(workdir), allowed)
        if not _FLAGS.input:
            raise ConfigError('--input', _FLAGS.input, 'a path or a glob')
        task = config.make_task().restored(workdir)
        state = restore_run(config, workdir, task)
        table, left_out = apply_table(
            task.preprocessing,
            _FLAGS.input,
            columns=_FLAGS.columns,
            on_error=_FLAGS.on_error,
        )
        if not rows.num_rows(table):
            count = left_out.count
            allowed = f'files with a row that can be used ({count} left out)'
            raise ConfigError('--input', _FLAGS.input, allowed)
        if _FLAGS.output:
            with open(_FLAGS.output, 'w', newline='') as file:
                _write(file, task, state, table, config.data.batch_size)
        else:
            _write(sys.stdout, task, state, table, config.data.batch_size)
    except (ConfigError, OSError) as error:
        print(f'moe.predict: {error}', file=sys.stderr)
        return 2
    if left_out.count:
        places = ', '.join(left_out.places)
        more = ', ...' if left_out.count > len(left_out.places) else ''
        line = f'{left_out.count} rows left out: {places}{more}'
        print(f'moe.predict: {line}', file=sys.stderr)
    return 0


def _write(file: TextIO, task, state, table, size: int) -> None:
    """Predicts batch by batch, each written before the next."""
    writer = csv.writer(file, lineterminator='\n')
    evaluate = jax.jit(task.evaluate)
    for i, batch in enumerate(rows.val_batches(table, size)):
        logits = jax.device_get(evaluate(state.variables, batch)['logits'])
        columns = task.predictions(logits[batch['live']])
        if not i:
            writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


if __name__ == '__main__':
    sys.exit(main(sys.argv))

"""Trains a model: `train.py --config=FILE[:VARIANT] --workdir=DIR`.

On SLURM and TPU pods every host runs the same command, with `--distributed`.
"""

import pathlib
import sys

import jax
from absl import flags

from moe import training
from moe.command_line import command, define_config, read_config
from moe.config import ConfigError
from moe.programs import keep_programs
from moe.training import processes
from moe.training.host import keep_freed_memory, make_deterministic
from moe.workloads import registry

_FLAGS = flags.FlagValues()
define_config(_FLAGS)
flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=_FLAGS)
flags.DEFINE_bool(
    'distributed',
    False,
    'One of the processes that SLURM or a TPU pod has started.',
    flag_values=_FLAGS,
)
flags.DEFINE_string(
    'coordinator',
    None,
    'HOST:PORT of the first of several processes started by hand.',
    flag_values=_FLAGS,
)
flags.DEFINE_integer(
    'processes', None, 'Number of processes.', flag_values=_FLAGS
)
flags.DEFINE_integer(
    'process', None, 'Number of this process, from 0.', flag_values=_FLAGS
)


@command('train.py')
def main(argv: list[str]) -> int:
    """Trains; returns the exit code.

    It is 1 for a loss that is not finite, 2 for a user's mistake, 3 if no
    checkpoint is whole.
    """
    try:
        if '--help=config' in argv:
            rest = [a for a in argv[1:] if a != '--help=config']
            print(registry.fields_of(rest))
            return 0
        given = read_config(_FLAGS, argv)
        if not _FLAGS.workdir:
            raise ConfigError('--workdir', _FLAGS.workdir, 'given')
        workdir = pathlib.Path(_FLAGS.workdir)
        by_hand = _FLAGS.coordinator, _FLAGS.processes, _FLAGS.process
        if _FLAGS.distributed or by_hand != (None, None, None):
            processes.start(*by_hand)
        keep_freed_memory()
        with processes.agreeing():
            # Before the config's check, which starts JAX's devices.
            asked = dict(given.overrides).get('deterministic')
            if str(asked or given.plain.get('deterministic')).lower() == 'true':
                make_deterministic()
            config = registry.read_config(given.plain, given.overrides)
        keep_programs()
        complete = training.run(config, workdir)
        processes.finish()
    except training.Diverged as error:
        print(f'train.py: {error}', file=sys.stderr)
        return 1
    if not complete or jax.process_index():
        return 0
    from moe.workloads import reports  # not before: it needs matplotlib

    print(reports.summary(workdir))
    print(f'report: {reports.write(workdir)}')
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv))

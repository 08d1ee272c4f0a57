"""`python -m launch.sweep --config=FILE[:VARIANT] --workdir=DIR`.

Starts the trials that FILE defines (see `launch.trials`), resumes interrupted
ones and skips finished ones. `--backend` says where they run; its options are
`--BACKEND.NAME=VALUE`.
"""

import dataclasses
import difflib
import importlib
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
from absl import flags
from ml_collections import config_flags

from launch import manifest, memory_check, results, vmapped
from launch.trials import Trial, read_sweep
from moe.command_line import command, define_config, read_config
from moe.config import ConfigError, parse
from moe.paths import check_local

# Each a module with `Options`, `run` and `dry_run`, as those of `local`.
BACKENDS = {
    'local': 'launch.backends.local',
    'slurm': 'launch.backends.slurm',
    'tpu': 'launch.backends.tpu',
}


@command('launch.sweep')
def main(argv: list[str]) -> int:
    """Runs the sweep; returns the exit code.

    It is 2 for a user's mistake, 1 if a trial is not done, 130 after Ctrl-C or
    SIGTERM.
    """
    jax.config.update('jax_platforms', 'cpu')  # accelerators are the trials'
    try:
        return _main(argv)
    except memory_check.Unfit as error:
        for line in error.lines:
            print(f'launch.sweep: {line}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        line = shlex.join(['python', '-m', 'launch.sweep', *argv[1:]])
        print(f'launch.sweep: stopped; to resume: {line}', file=sys.stderr)
        return 130


def _main(argv: list[str]) -> int:
    backend, name = _backend(argv)
    values = _flags(argv, name, backend.Options)
    given = read_config(values, argv)
    if not values.workdir:
        raise ConfigError('--workdir', values.workdir, 'given')
    how: dict[str, Any] = {n: values[n].value for n in ('parallel', 'retries')}
    for flag, least in (('parallel', 1), ('retries', 0)):
        if how[flag] < least:
            raise ConfigError(f'--{flag}', how[flag], f'at least {least}')
    section: Any = values[name].value
    options = parse(backend.Options, section.to_dict(), name)
    workdir = pathlib.Path(values.workdir)
    check_local(workdir, '--workdir')
    if values.workdir.startswith('-'):  # programs would take it for a flag
        raise ConfigError('--workdir', values.workdir, 'a path without a dash')
    sweep = read_sweep(given.source, dict(given.overrides), workdir)
    manifest.check_same(workdir, sweep)
    left = [trial for trial in sweep.trials if not trial.done()]
    if values.plan:
        memory_check.check(left, values.plan)
    jobs: Sequence[Trial] = left
    if values.vmapped:
        if name != 'local':
            raise ConfigError('--vmapped', name, 'with --backend=local')
        jobs = vmapped.group_trials(left)
        print(vmapped.summary(jobs), file=sys.stderr)
    lines = list(backend.dry_run(jobs, options, **how))  # checks the options
    if values.dry_run:
        for line in lines:
            print(line)
        return 0
    manifest.write(workdir, sweep)
    done = len(sweep.trials) - len(left)
    already = f', {done} of them done already' if done else ''
    print(f'{len(sweep.trials)} trials{already}', flush=True)
    if left:
        backend.run(jobs, options, **how)
    results.show(workdir)
    missing = [trial.name for trial in left if not trial.done()]
    if missing:
        print(
            f'launch.sweep: {len(missing)} trial(s) not done, the same command '
            f'resumes them: {", ".join(missing)}',
            file=sys.stderr,
        )
    return 1 if missing else 0


def _backend(argv: Sequence[str]) -> tuple[Any, str]:
    """Returns the backend's module and name; its flags depend on it."""
    prefix = '--backend='
    given = [a.removeprefix(prefix) for a in argv if a.startswith(prefix)]
    name = given[-1] if given else 'local'
    if name not in BACKENDS:
        raise ConfigError('--backend', name, 'one of ' + ', '.join(BACKENDS))
    try:
        return importlib.import_module(BACKENDS[name]), name
    except ModuleNotFoundError as error:
        allowed = f'one that is installed (there is no module {error.name})'
        raise ConfigError('--backend', name, allowed) from None


def _flags(argv: list[str], backend: str, options: type) -> flags.FlagValues:
    """Defines the flags of the command."""
    values = flags.FlagValues()
    define_config(values)
    flags.DEFINE_string(
        'workdir', None, 'Folder of the sweep.', flag_values=values
    )
    flags.DEFINE_enum(
        'backend',
        'local',
        list(BACKENDS),
        'Where trials run.',
        flag_values=values,
    )
    flags.DEFINE_integer('parallel', 1, 'Trials at once.', flag_values=values)
    flags.DEFINE_integer(
        'retries', 1, 'Restarts of a trial that fails.', flag_values=values
    )
    flags.DEFINE_bool(
        'vmapped',
        False,
        'Trains those that differ only in scalars as one program.',
        flag_values=values,
    )
    flags.DEFINE_bool(
        'dry_run', False, 'Prints what would be run.', flag_values=values
    )
    flags.DEFINE_string(
        'plan',
        None,
        'CHIP:SIZES: refuses trials that do not fit.',
        flag_values=values,
    )
    defaults = {f.name: f.default for f in dataclasses.fields(options)}
    for argument in argv:
        field = argument.partition('=')[0].removeprefix(f'--{backend}.')
        if argument.startswith(f'--{backend}.') and field not in defaults:
            near = difflib.get_close_matches(field, defaults, 1, cutoff=0)
            allowed = f'absent: no such option (nearest: {near[0]})'
            value = argument.partition('=')[2]
            raise ConfigError(f'--{backend}.{field}', value, allowed)
    config_flags.DEFINE_config_dict(
        backend,
        ml_collections.ConfigDict(defaults),
        'Options of the backend.',
        flag_values=values,
        sys_argv=argv,
    )
    return values


if __name__ == '__main__':
    sys.exit(main(sys.argv))

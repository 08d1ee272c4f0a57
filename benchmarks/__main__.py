"""`python -m benchmarks SUITE [--rounds=5 ...]`: measures, prints tables."""

import contextlib
import os
import pathlib
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from absl import flags

from benchmarks import (
    generation,
    gpu,
    layer,
    memory,
    multitask,
    page,
    record,
    routers,
    scaling,
    sections,
    startup,
    step,
)
from moe.command_line import command, read_flags
from moe.config import ConfigError
from moe.training.host import keep_freed_memory

_FLAGS = flags.FlagValues()
for _name, _value, _help in (
    ('rounds', 5, 'Number of measurements of each case.'),
    ('steps', 300, 'Steps of each run of a study.'),
    ('seeds', 3, 'Runs of each variant of a study.'),
):
    flags.DEFINE_integer(_name, _value, _help, 1, flag_values=_FLAGS)
for _name, _help in (
    ('files', 'The table of the study census.'),
    ('json', 'File that a suite writes its lines to, anew.'),
):
    flags.DEFINE_string(_name, '', _help, flag_values=_FLAGS)
flags.DEFINE_enum(
    'size',
    'full',
    ['full', 'small'],
    'Sizes of a suite; small is for trying it.',
    flag_values=_FLAGS,
)
flags.DEFINE_list(
    'experts',
    [],
    'Layers to measure, by numbers of experts; all without.',
    flag_values=_FLAGS,
)
flags.DEFINE_bool(
    'dry_run',
    False,
    'Lowers the programs of the suite gpu and runs nothing.',
    flag_values=_FLAGS,
)

Records = Iterator[record.Record]
# What writes lines, and docs/benchmarks.md is made of.
_SUITES: dict[str, Callable[[Any], Records]] = {
    'layer': lambda f: layer.run(f.size, f.rounds, _experts(f)),
    'step': lambda f: step.run(f.size, f.rounds),
    'generation': lambda f: generation.run(f.size, f.rounds),
    'scaling': lambda f: scaling.run(f.size, f.rounds),
    'devices': lambda f: scaling.devices(f.size, f.rounds),
    'memory': lambda f: memory.memory(f.size),
    'compile': lambda f: memory.compilation(f.size, f.rounds),
    'startup': lambda f: startup.run(f.size, f.rounds),
    'gpu': lambda f: _gpu(f),
}
# What trains models, and prints a table that pages of docs/ have.
_STUDIES: dict[str, Callable[[Any], Sequence[str]]] = {
    'routers': lambda f: routers.compare(f.steps, f.seeds),
    'images': lambda f: routers.images(f.steps, f.seeds),
    'speed': lambda f: routers.speed(f.rounds),
    'weights': lambda f: routers.weights(f.steps, f.seeds),
    'census': lambda f: multitask.census(f.files, f.seeds),
    'snr': lambda f: multitask.snr(f.steps, f.seeds),
    'tasks': lambda f: multitask.speed(f.rounds),
    'synthetic': lambda f: multitask.synthetic(f.steps, f.seeds),
}
_NOT_RUN = 3


def _gpu(values: Any) -> Records:
    if values.dry_run:
        return gpu.dry_run()
    return gpu.run(values.rounds, _experts(values))


@command('benchmarks')
def main(argv: list[str]) -> int:
    """Runs the named suite or study, or writes the page of the suites.

    Returns:
      0; 1 if a case failed, 2 for a user's mistake, 3 for a suite that cannot
      run on this machine.
    """
    names = [a for a in argv[1:] if not a.startswith('--')]
    read_flags(_FLAGS, [a for a in argv if a not in names])
    allowed = [*_SUITES, *_STUDIES, 'docs']
    if len(names) != 1 or names[0] not in allowed:
        raise ConfigError(
            'suite', ' '.join(names), f'one of {", ".join(allowed)}'
        )
    (name,) = names
    if name == 'docs':
        for path in page.write():
            print(path)
        return 0
    keep_freed_memory()
    if name in _STUDIES:
        print('\n'.join(_STUDIES[name](_FLAGS)))
        return 0
    return _measure(name, argv)


def _measure(name: str, argv: list[str]) -> int:
    """Runs a suite, prints its section, writes its lines."""
    if name == 'gpu' and not _FLAGS.dry_run:
        # A GPU's memory is shared with PyTorch.
        os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
        if reason := gpu.why_not():
            print(f'benchmarks: gpu: not run: {reason}', file=sys.stderr)
            return _NOT_RUN
    if name == 'devices':
        with contextlib.suppress(RuntimeError):  # in a process that has started
            jax.config.update('jax_num_cpu_devices', 4)
    # Programs are compiled here, not read.
    jax.config.update('jax_enable_compilation_cache', False)
    line = shlex.join(['python', '-m', 'benchmarks', *argv[1:]])
    records = record.surrounded(name, _SUITES[name](_FLAGS), line)
    if _FLAGS.json:
        records = record.written(pathlib.Path(_FLAGS.json), records)
    lines = []
    for found in records:
        lines.append(found)
        print(_progress(found), file=sys.stderr, flush=True)
    print('\n'.join(sections.section(name, lines)))
    return int(any('failed' in found for found in lines))


def _progress(found: record.Record) -> str:
    """A line that says that a case is done."""
    time = found.get('milliseconds', {}).get('median')
    for key in ('failed', 'not_run', 'lowered'):
        if key in found:
            return f'{found["case"]}: {key.replace("_", " ")}: {found[key]}'
    return found['case'] + (f': {time:,.1f} ms' if time is not None else '')


def _experts(values: Any) -> list[int]:
    """The numbers of experts that were asked for."""
    try:
        return [int(count) for count in values.experts]
    except ValueError:
        raise ConfigError(
            '--experts', ','.join(values.experts), 'numbers, as 8,64'
        ) from None


if __name__ == '__main__':
    sys.exit(main(sys.argv))

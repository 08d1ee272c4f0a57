"""`python -m benchmarks SUITE [--rows=8192 ...]`: prints a table."""

import sys

from absl import flags

from benchmarks import layer, multitask, routers
from moe.command_line import read_flags
from moe.config import ConfigError
from moe.training.host import keep_freed_memory

_FLAGS = flags.FlagValues()
for _name, _value, _help in (
    ('rows', 8192, '(token, choice) pairs.'),
    ('width', 512, 'D.'),
    ('hidden', 2048, 'F of an expert.'),
    ('rounds', 7, 'Number of measurements of each.'),
    ('steps', 300, 'Steps of each run.'),
    ('seeds', 3, 'Runs of each variant.'),
):
    flags.DEFINE_integer(_name, _value, _help, 1, flag_values=_FLAGS)

flags.DEFINE_string(
    'files', '', 'The table of the suite census.', flag_values=_FLAGS
)

_SUITES = {
    'layer': lambda f: layer.run(f.rows, f.width, f.hidden, f.rounds),
    'routers': lambda f: routers.compare(f.steps, f.seeds),
    'images': lambda f: routers.images(f.steps, f.seeds),
    'speed': lambda f: routers.speed(f.rounds),
    'weights': lambda f: routers.weights(f.steps, f.seeds),
    'census': lambda f: multitask.census(f.files, f.seeds),
    'snr': lambda f: multitask.snr(f.steps, f.seeds),
    'tasks': lambda f: multitask.speed(f.rounds),
    'synthetic': lambda f: multitask.synthetic(f.steps, f.seeds),
}


def main(argv: list[str]) -> int:
    """Runs the named suite; returns the exit code."""
    names = [a for a in argv[1:] if not a.startswith('--')]
    try:
        read_flags(_FLAGS, [a for a in argv if a not in names])
        if len(names) != 1 or names[0] not in _SUITES:
            allowed = 'one of ' + ', '.join(_SUITES)
            raise ConfigError('suite', ' '.join(names), allowed)
    except ConfigError as error:
        print(f'benchmarks: {error}', file=sys.stderr)
        return 2
    keep_freed_memory()
    suite = _SUITES[names[0]]
    print('\n'.join(suite(_FLAGS)))
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv))

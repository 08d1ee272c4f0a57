"""`python -m launch.plan --config=FILE[:VARIANT] --topology=v5p:4x4x8`.

Plans a run for TPUs or GPUs you do not have: memory, time, and what takes it.
"""

import json
import os
import pathlib
import sys

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')  # no warnings of XLA's
os.environ['JAX_PLATFORMS'] = 'cpu'  # before jax: no chip is needed

from absl import flags

from launch.planning.chips import parse_topology
from launch.planning.compare import candidates
from launch.planning.estimate import Implausible
from launch.planning.hlo import HLOError
from launch.planning.machines import NoCompiler
from launch.planning.planner import plan
from launch.planning.tables import price_table, ranking, table
from moe import files, progress
from moe.command_line import command, define_config, read_config
from moe.config import ConfigError
from moe.workloads import registry
from moe.workloads.planned import planning_of

# The last is of jax's kernels: a head too wide for cuDNN on the GPU.
_NO_PLAN = (HLOError, Implausible, NotImplementedError)
_FLAGS = flags.FlagValues()
define_config(_FLAGS)
flags.DEFINE_string(
    'topology',
    None,
    'CHIP:SIZES, such as v5p:4x4x8, or h100:8x8 (nodes x GPUs).',
    flag_values=_FLAGS,
)
flags.DEFINE_string(
    'json',
    None,
    'File that the plan, or plans, are written to.',
    flag_values=_FLAGS,
)
flags.DEFINE_bool(
    'compare',
    False,
    'Tries meshes and what the backward pass keeps; ranks those that fit.',
    flag_values=_FLAGS,
)
flags.DEFINE_integer(
    'limit', 12, 'Largest number of plans of --compare.', 1, flag_values=_FLAGS
)
flags.DEFINE_float(
    'price',
    None,
    'Price of one chip for an hour; prints that of a step and of 10^12 tokens.',
    0.0,
    flag_values=_FLAGS,
)


@command('launch.plan')
def main(argv: list[str]) -> int:
    """Makes a plan; returns the exit code, 2 for a mistake of the user."""
    try:
        given = read_config(_FLAGS, argv)
        topology = parse_topology(_FLAGS.topology)
        config = registry.read_config(given.plain, given.overrides)
        if _FLAGS.compare:
            plain, found = registry.plain_of(config), []
            tried = candidates(planning_of(config), topology)
            for changes in tried[: _FLAGS.limit]:
                name = ' '.join(f'{k}={v}' for k, v in changes.items())
                print(name, file=sys.stderr, flush=True)
                try:
                    config = registry.read_config(plain, changes.items())
                    with progress.shown('planning'):
                        result = plan(config, topology)
                except (ConfigError, *_NO_PLAN) as error:
                    result = {'refused': str(error)}
                found.append({'changes': changes, **result})
            result, text = {'plans': found}, ranking(found)
        else:
            with progress.shown('planning'):
                result = plan(config, topology)
            text = table(result)
            if _FLAGS.price is not None and 'step' in result:
                text += '\n\n' + price_table(result, _FLAGS.price)
    except NoCompiler as error:
        print(f'launch.plan: {error}', file=sys.stderr)
        return 2
    except _NO_PLAN as error:
        print(f'launch.plan: no plan: {error}', file=sys.stderr)
        return 1
    print(text)
    if _FLAGS.json:
        path = pathlib.Path(_FLAGS.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, json.dumps(result, indent=1) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv))

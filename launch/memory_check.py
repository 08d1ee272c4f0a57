"""Checks that trials fit the memory of a pod before any is started."""

import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from launch.planning.chips import parse_topology
from launch.planning.machines import GIB
from launch.trials import Trial
from moe import progress
from moe.config import ConfigError

# Fields that do not change the memory of a program.
_IRRELEVANT = ('seed',)


class Unfit(ValueError):
    """Trials that do not fit the memory of a pod.

    Args:
      lines: a line with the reason for each trial.
    """

    def __init__(self, lines: Sequence[str]):
        super().__init__(*lines)
        self.lines = list(lines)


def check(trials: Sequence[Trial], topology: str) -> None:
    """Plans every trial for a pod, and refuses those that do not fit.

    Each is compiled in a process of its own, which gives the compiler's memory
    back; trials that differ only in the seed share a plan.

    Args:
      trials: trials of a sweep.
      topology: CHIP:SIZES, such as v5p:4x4x8.

    Raises:
      ConfigError: for an unknown topology.
      Unfit: if a trial does not fit, or cannot be planned.
    """
    try:
        parse_topology(topology)
    except ConfigError as error:
        raise ConfigError('--plan', error.value, error.allowed) from None
    known: dict[str, str] = {}
    lines = []
    for i, trial in enumerate(trials):
        same = {k: v for k, v in trial.plain.items() if k not in _IRRELEVANT}
        key = json.dumps(same, sort_keys=True)
        if key not in known:
            what = f'planning {trial.name} for {topology}'
            with progress.shown(what, len(trials), 'trials') as reach:
                reach(i)
                known[key] = _problem(trial, topology)
        if known[key]:
            lines.append(f'trial {trial.name}: {known[key]}')
    if lines:
        raise Unfit(lines)


def _problem(trial: Trial, topology: str) -> str:
    """Returns why a trial does not fit, '' if it does."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / 'plan.json'
        arguments = [a for a in trial.command if a.startswith('--config')]
        done = subprocess.run(
            [
                *(sys.executable, '-m', 'launch.plan', *arguments),
                *(f'--topology={topology}', f'--json={path}'),
            ],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            last = lines[-1] if lines else f'exit code {done.returncode}'
            return last.removeprefix('launch.plan: ')
        memory = json.loads(path.read_text())['memory']
    if memory['fits']:
        return ''
    need, there = memory['sum'] / GIB, memory['there'] / GIB
    return f'memory a chip = {need:.1f} GiB: must be at most {there:.0f} GiB'

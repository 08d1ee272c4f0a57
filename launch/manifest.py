"""Writes and reads `sweep.json`, the description of a sweep."""

import json
import pathlib
from typing import Any

from launch.trials import Sweep, Trial
from moe import files
from moe.config import ConfigError, differences
from moe.paths import check_local, read_json, reading
from moe.training.origin import commit

_NAME = 'sweep.json'


def write(workdir: pathlib.Path, sweep: Sweep) -> None:
    """Writes the config file, the fields, and every trial's command.

    Args:
      workdir: folder of the sweep, made if absent.
      sweep: the sweep that is about to run.

    Raises:
      ConfigError: if the folder cannot be made.
    """
    text = json.dumps(_described(sweep) | {'commit': commit()}, indent=1)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        files.write_text(workdir / _NAME, text + '\n')
    except OSError as error:
        allowed = f'a folder, or the name of a new one ({error.strerror})'
        raise ConfigError('--workdir', str(workdir), allowed) from None


def read(workdir: pathlib.Path) -> Sweep:
    """Reads the sweep of a folder.

    Args:
      workdir: folder of the sweep; it may have been moved.

    Returns:
      The sweep.

    Raises:
      ConfigError: for a folder without a sweep.
    """
    check_local(workdir)
    path = workdir / _NAME
    if not path.exists():
        allowed = f"a sweep's folder, with {_NAME}"
        raise ConfigError('workdir', str(workdir), allowed)
    found = read_json(path)
    with reading(path):
        trials = [
            Trial(
                name,
                dict(trial['changes']),
                dict(trial['config']),
                workdir / name,
                tuple(trial['command']),
            )
            for name, trial in found['trials'].items()
        ]
        config, base = str(found['config']), dict(found['base'])
        return Sweep(config, base, tuple(found['fields']), tuple(trials))


def check_same(workdir: pathlib.Path, sweep: Sweep) -> None:
    """Refuses the folder of a sweep of other trials, or of another config.

    Args:
      workdir: folder of the sweep; it need not exist.
      sweep: the sweep that is about to run.

    Raises:
      ConfigError: if the trials or the config differ; it names the first
        difference.
    """
    if not (workdir / _NAME).exists():
        return
    earlier, now = (
        {
            'config': found['base'],
            **{name: t['changes'] for name, t in found['trials'].items()},
        }
        for found in (_described(read(workdir)), _described(sweep))
    )
    lines = list(differences(earlier, now, 'sweep'))
    if lines:
        more = f' (and {len(lines) - 1} more)' if len(lines) > 1 else ''
        allowed = f'a new folder, or one of the same sweep: {lines[0]}{more}'
        raise ConfigError('--workdir', str(workdir), allowed)


def _described(sweep: Sweep) -> dict[str, Any]:
    return {
        'config': sweep.config,
        'fields': list(sweep.fields),
        'base': sweep.base,
        'trials': {
            trial.name: {
                'changes': dict(trial.changes),
                'config': trial.plain,
                'command': list(trial.command),
            }
            for trial in sweep.trials
        },
    }

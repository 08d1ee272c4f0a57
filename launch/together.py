"""`python -m launch.together DIR NAME NAME...`: trials as one program.

What differs between them is an axis of the arrays: the seed, with its own
parameters and its own order of the data, and the scalars of `TRACED`. It runs
on one device and starts from the first step; there are no checkpoints but the
last.
"""

import contextlib
import dataclasses
import functools
import json
import math
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from launch import manifest
from launch.trials import Trial
from moe.config import ConfigError, options
from moe.metrics import Writer
from moe.training.checkpoint import Checkpoints
from moe.training.loop import describe, logged
from moe.training.step import init_state, make_eval_step, make_train_step
from moe.workloads import registry

# Fields of the optimizer and of its schedule, where it has them; coefficients
# of losses too, but where only some are 0.
TRACED = ('learning_rate', 'weight_decay')
TRACED_OF_SCHEDULE = ('final_fraction',)


@dataclasses.dataclass(frozen=True)
class Group(Trial):
    """Trials that are one process; it logs into the folder of the first."""

    members: tuple[Trial, ...]

    def newest(self) -> Mapping[str, Any]:
        """The last metrics that the first logged."""
        return self.members[0].newest()

    def done(self) -> bool:
        """Whether all of them are."""
        return all(trial.done() for trial in self.members)


def grouped(trials: Sequence[Trial]) -> list[Trial]:
    """Puts together those that can be; the others stay as they are.

    Args:
      trials: of one sweep.
    """
    alike: dict[str, list[Trial]] = {}
    for trial in trials:
        alike.setdefault(_key(trial), []).append(trial)
    return [
        members[0] if len(members) == 1 else _group(members)
        for members in alike.values()
    ]


def told(jobs: Sequence[Trial]) -> str:
    """One line on what goes together and what cannot.

    Args:
      jobs: of `grouped`.
    """
    groups = [job for job in jobs if isinstance(job, Group)]
    count = sum(len(group.members) for group in groups)
    fields = [*TRACED, *(f'schedule.{name}' for name in TRACED_OF_SCHEDULE)]
    names = ', '.join(f'optimizer.{name}' for name in fields)
    return (
        f'together: {count} trials in {len(groups)} programs, '
        f'{len(jobs) - len(groups)} by themselves; only seed, {names} and '
        'losses that are not 0 may differ, on one device, without resuming'
    )


def _group(members: Sequence[Trial]) -> Group:
    first = members[0]
    names = [trial.name for trial in members]
    folder = str(first.folder.parent)
    return Group(
        **{f.name: getattr(first, f.name) for f in dataclasses.fields(Trial)}
        | {
            'name': f'{first.name} and {len(members) - 1} more',
            'command': ('-m', 'launch.together', folder, *names),
        },
        members=tuple(members),
    )


def _key(trial: Trial) -> str:
    """What must be the same."""
    plain = trial.plain
    if math.prod(size for size in plain['mesh'].values() if size > 0) > 1:
        return trial.name  # over devices: by itself
    optimizer = {k: v for k, v in plain['optimizer'].items() if k not in TRACED}
    if isinstance(optimizer.get('schedule'), dict):
        schedule = optimizer['schedule'].items()
        optimizer['schedule'] = {
            k: v for k, v in schedule if k not in TRACED_OF_SCHEDULE
        }
    losses = {name: bool(value) for name, value in plain['losses'].items()}
    same = {**plain, 'seed': 0, 'optimizer': optimizer, 'losses': losses}
    return json.dumps(same, sort_keys=True)


def run(trials: Sequence[Trial]) -> None:
    """Trains them all, and leaves the folder of each as `train.py` would.

    A trial whose loss is no longer finite is left there, and is not done; the
    others go on.

    Args:
      trials: that `grouped` put together.

    Raises:
      ConfigError: for data or a folder that cannot be used.
    """
    configs = [registry.read_config(trial.plain) for trial in trials]
    config, task = configs[0], configs[0].make_task()
    data = task.load()
    described = task.describe(data)
    for trial in trials:
        describe(trial.folder, trial.plain, described)
        task.keep(data, trial.folder)
    batches = [c.make_task().train_batches(data, 0, 1) for c in configs]
    scalars = _stacked([_scalars(c) for c in configs])
    keys = jax.vmap(jax.random.key)(jnp.array([c.seed for c in configs]))
    start = lambda key: init_state(config, key, task)
    states = jax.jit(jax.vmap(start))(keys)

    def one(scalars, state, batch):
        return make_train_step(_with(config, scalars), task)(state, batch)

    advance = jax.jit(jax.vmap(one), donate_argnums=1)
    evaluate = jax.jit(jax.vmap(make_eval_step(config, task), (0, None)))
    alive = dict(enumerate(trials))
    with contextlib.ExitStack() as stack:
        writers = [Writer(trial.folder, 0) for trial in trials]
        for writer in writers:
            stack.callback(writer.close)
        last, then = 0, time.perf_counter()
        for step in range(1, config.steps + 1):
            rows = _stacked([next(b) for b in batches])
            states, metrics = advance(scalars, states, rows)
            final = step == config.steps
            evaluated = final or step % config.eval_every == 0
            if not (evaluated or step == 1 or step % config.log_every == 0):
                continue
            found = [
                evaluate(states, batch)
                for batch in (task.val_batches(data, 0, 1) if evaluated else ())
            ]
            metrics, found = jax.device_get((metrics, found))
            now = time.perf_counter()
            speed = (step - last) * task.units_per_step / (now - then)
            last, then = step, now
            losses = []
            for i in list(alive):
                values, _ = logged(
                    task, *_part((metrics, found if evaluated else None), i)
                )
                values[f'train/{task.unit}_per_second'] = speed
                writers[i].write_scalars(step, values)
                losses.append(values['train/loss'])
                if not math.isfinite(losses[-1]):
                    print(f'{trials[i].name}: loss {losses[-1]}', flush=True)
                    del alive[i]
            text = ' '.join(f'{loss:.4f}' for loss in losses)
            print(f'step {step}/{config.steps}  loss {text}', flush=True)
    for i, trial in alive.items():
        _leave(trial, task, _part(states, i), data, batches[i])


def _leave(trial, task, state, data, batches) -> None:
    """The end of a run: its last checkpoint, what its task leaves, its page."""
    from moe.workloads import reports  # not before: it needs matplotlib

    with contextlib.closing(Checkpoints(trial.folder, keep=1)) as checkpoints:
        checkpoints.save(trial.plain['steps'], state, batches.get_state())
    task.leave(state.variables, data, trial.folder)
    reports.write(trial.folder)


def _scalars(config) -> dict[str, Any]:
    """The numbers that may differ."""
    schedule = options(config.optimizer.schedule)
    return {
        'optimizer': {n: getattr(config.optimizer, n) for n in TRACED},
        'schedule': {
            n: schedule[n] for n in TRACED_OF_SCHEDULE if n in schedule
        },
        'losses': {n: v for n, v in config.losses.items() if v},
    }


def _with(config, scalars):
    """The config with traced numbers."""
    schedule = functools.partial(
        config.optimizer.schedule, **scalars['schedule']
    )
    return dataclasses.replace(
        config,
        optimizer=dataclasses.replace(
            config.optimizer, schedule=schedule, **scalars['optimizer']
        ),
        losses={**config.losses, **scalars['losses']},
    )


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _part(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


def main(argv: list[str]) -> int:
    """Runs; returns the exit code: 2 for what the user can mend."""
    folder, *names = argv[1:]
    try:
        trials = {t.name: t for t in manifest.read(pathlib.Path(folder)).trials}
        run([trials[name] for name in names])
    except ConfigError as error:
        print(f'launch.together: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv))

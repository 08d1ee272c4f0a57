"""`python -m launch.vmapped DIR NAME NAME...`: vmapped trials.

Several trials run as one program on one device, stacked along an axis of the
arrays. They may differ in the seed, so in parameters and order of the data, and
in the scalars of `TRACED`. They start from the first step and write only the
last checkpoint.
"""

import contextlib
import dataclasses
import functools
import json
import math
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from launch import manifest
from launch.trials import Trial
from moe.command_line import command
from moe.config import options
from moe.metrics import Writer
from moe.programs import keep_programs
from moe.training import history
from moe.training.checkpoint import Checkpoints
from moe.training.clock import Clock
from moe.training.cost import Cost
from moe.training.divergence import all_finite, told
from moe.training.folder import write_description
from moe.training.lock import locked
from moe.training.loop import train
from moe.training.step import init_state, make_eval_step, make_train_step
from moe.training.trainer import logged
from moe.workloads import registry

# Fields of the optimizer and of its schedule that may differ between trials;
# coefficients of losses may too, unless only some of them are 0.
TRACED = ('learning_rate', 'weight_decay')
TRACED_OF_SCHEDULE = ('final_fraction',)


@dataclasses.dataclass(frozen=True)
class Group(Trial):
    """Trials that run as one vmapped program.

    Attributes:
      members: the trials; the program's log is in the folder of the first.
    """

    members: tuple[Trial, ...]

    def newest(self) -> Mapping[str, Any]:
        """Returns the last metrics that the first trial logged."""
        return self.members[0].newest()

    def done(self) -> bool:
        """Whether all trials are complete."""
        return all(trial.done() for trial in self.members)


def group_trials(trials: Sequence[Trial]) -> list[Trial]:
    """Groups the trials that can run as one program; others stay as they are.

    Args:
      trials: trials of a sweep.
    """
    alike: dict[str, list[Trial]] = {}
    for trial in trials:
        alike.setdefault(_key(trial), []).append(trial)
    return [
        members[0] if len(members) == 1 else _group(members)
        for members in alike.values()
    ]


def summary(jobs: Sequence[Trial]) -> str:
    """Returns a line on how many trials are vmapped, and what may differ.

    Args:
      jobs: groups and trials, as `group_trials` returns them.
    """
    groups = [job for job in jobs if isinstance(job, Group)]
    count = sum(len(group.members) for group in groups)
    fields = [*TRACED, *(f'schedule.{name}' for name in TRACED_OF_SCHEDULE)]
    names = ', '.join(f'optimizer.{name}' for name in fields)
    return (
        f'vmapped: {count} trials in {len(groups)} programs, '
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
            'command': ('-m', 'launch.vmapped', folder, *names),
        },
        members=tuple(members),
    )


def _key(trial: Trial) -> str:
    """Returns what must be the same in all trials of a group."""
    plain = trial.plain
    if math.prod(size for size in plain['mesh'].values() if size > 0) > 1:
        return trial.name  # it runs on several devices, by itself
    best = plain['best']
    if plain['init_from'] or best['keep'] or best['patience']:
        return trial.name  # a group starts from seeds, and ends at once
    if plain.get('wandb'):
        return trial.name  # a process has one run of Weights & Biases
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
    """Trains the trials, and writes the folder of each as `train.py` does.

    A trial whose loss is no longer finite stops, and is not done; the others
    continue.

    Args:
      trials: members of one group of `group_trials`.

    Raises:
      ConfigError: for data or a folder that cannot be used.
    """
    with contextlib.ExitStack() as stack:
        for trial in trials:
            stack.enter_context(locked(trial.folder))
        trainer = VmappedTrainer(trials)
        stack.callback(trainer.close)
        train(trainer, trainer.config)
        trainer.finalize()


class VmappedTrainer:
    """Trains several trials as one program, driven by the training loop.

    Args:
      trials: members of one group of `group_trials`.

    Attributes:
      config: config of the first trial; the others differ in scalars alone.
      clock: the clock of the time in training.
      start: 0, as vmapped trials do not resume.
    """

    start = 0

    def __init__(self, trials: Sequence[Trial]):
        configs = [registry.read_config(trial.plain) for trial in trials]
        config = self.config = configs[0]
        workload = self._workload = config.make_workload()
        self._trials, self._data = trials, workload.load_data()
        described = workload.describe_data(self._data)
        for trial in trials:
            write_description(trial.folder, trial.plain, described)
            workload.save_assets(self._data, trial.folder)
            history.record(trial.folder, history.STARTED, step=0)
        self._batches = [
            c.make_workload().train_batches(self._data, 0, 1) for c in configs
        ]
        self._scalars = _stacked([_scalars(c) for c in configs])
        keys = jax.vmap(jax.random.key)(jnp.array([c.seed for c in configs]))
        start = jax.vmap(lambda key: init_state(config, key, workload))
        self._states = jax.jit(start)(keys)

        def train_step(scalars, state, batch):
            step = make_train_step(_with(config, scalars), workload)
            return step(state, batch)

        eval_step = make_eval_step(config, workload)
        self._train_step = jax.jit(jax.vmap(train_step), donate_argnums=1)
        self._eval_step = jax.jit(jax.vmap(eval_step, (0, None)))
        self._alive = dict(enumerate(trials))
        self._writers = [Writer(trial.folder, 0) for trial in trials]
        self.clock = Clock(config.steps, workload)
        self._cost = Cost(workload, jax.devices()[:1])
        self._constants = self._cost.constants()

    def advance(self) -> Any:
        """Takes a step of all trials; returns metrics stacked over them."""
        with self.clock.waiting():
            rows = _stacked([next(batches) for batches in self._batches])
        self._states, metrics = self._train_step(
            self._scalars, self._states, rows
        )
        return metrics

    def evaluate(self) -> Iterator[Any]:
        """Yields the result of each validation batch, which trials share."""
        for batch in self._workload.eval_batches(self._data, 0, 1):
            yield self._eval_step(self._states, batch)

    def log(self, step: int, metrics: Any, evaluation: Any) -> None:
        """Writes the metrics of each trial that has not diverged."""
        speed, losses = self.clock.speed(), []
        # Of each trial alone, all of which the device computes in this time.
        speed |= self._cost.metrics(step, speed) | self._constants
        self._constants = {}  # they stand in the first line
        for i, trial in list(self._alive.items()):
            own = _part((metrics, evaluation), i)
            values, _ = logged(self._workload, *own)
            self._writers[i].write_scalars(step, values | speed)
            losses.append(values.get('train/loss', math.nan))
            if reason := told(step, values, self.config.divergence):
                print(f'{trial.name}: {reason}', flush=True)
                history.record(trial.folder, history.DIVERGED, reason=reason)
                del self._alive[i]
        text = ' '.join(f'{loss:.4f}' for loss in losses)
        print(f'step {step}/{self.config.steps}  loss {text}', flush=True)

    def save(self, step: int) -> None:
        """Does nothing: the only checkpoint is that of `finalize`."""

    def improved(self, step: int) -> bool:
        """Returns False: no checkpoint is kept for its evaluation."""
        return False

    def ended(self) -> str | None:
        """Returns None: all trials of a group take all steps."""
        return None

    def finalize(self) -> None:
        """Writes the checkpoint, results and report page of each trial."""
        from moe.workloads import reports  # not before: it needs matplotlib

        for i, trial in self._alive.items():
            state, position = _part(self._states, i), self._batches[i]
            if not all_finite(state):
                print(f'{trial.name}: not finite', flush=True)
                continue
            checkpoints = Checkpoints(trial.folder, keep=1)
            with contextlib.closing(checkpoints):
                last = self.config.steps
                checkpoints.save(last, state, position.get_state())
            self._workload.finalize(state.variables, self._data, trial.folder)
            history.record(trial.folder, history.FINISHED, step=last)
            reports.write(trial.folder)

    def close(self) -> None:
        """Closes the files of metrics."""
        for writer in self._writers:
            writer.close()


def _scalars(config) -> dict[str, Any]:
    """Returns the scalars that may differ between the trials of a group."""
    schedule = options(config.optimizer.schedule)
    return {
        'optimizer': {n: getattr(config.optimizer, n) for n in TRACED},
        'schedule': {
            n: schedule[n] for n in TRACED_OF_SCHEDULE if n in schedule
        },
        'losses': {n: v for n, v in config.losses.items() if v},
    }


def _with(config, scalars):
    """Returns the config with traced scalars instead of its own."""
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


@command('launch.vmapped')
def main(argv: list[str]) -> int:
    """Runs the trials; returns the exit code, 2 for a mistake of the user."""
    folder, *names = argv[1:]
    trials = {t.name: t for t in manifest.read(pathlib.Path(folder)).trials}
    keep_programs()
    run([trials[name] for name in names])
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv))

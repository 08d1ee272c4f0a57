"""Routers compared: the same small language model with each of them.

All have 2 of 16 experts a token, or the same in the mean, and so the same
active FLOPs; `switch` has one of twice the width.
"""

import dataclasses
import functools
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks.timing import medians
from configs import lm, vision
from moe import training
from moe.training.clock import Clock
from moe.training.evaluation import metrics_of
from moe.training.loop import train
from moe.training.step import init_state, make_eval_step, make_train_step
from moe.workloads import registry

_TAIL = 50  # last steps that the statistics are means over
_STATS = ('max_violation', 'load_cv', 'dropped', 'experts_per_token')

_SIZES = {
    'model.d_model': 64,
    'model.num_layers': 2,
    'model.moe.num_experts': 16,
    'model.moe.experts.hidden': 64,
    'data.batch_size': 16,
    'optimizer.schedule.warmup_steps': 30,
}
_FREE: dict[str, float] = {'load_balance': 0.0, 'router_z': 0.001}
_CAPACITY = {
    'model.moe.dispatcher': 'indexed',
    'model.moe.capacity': {'name': 'factor', 'train': 1.25, 'eval': None},
}


def _router(name: str, losses: Mapping[str, float] = _FREE, **options) -> dict:
    return {
        'model.moe.router': {'name': name, **options},
        'losses': dict(losses),
    }


_SIGN = {'name': 'sign', 'rate': 0.01}
_SPARSITY = {'name': 'sparsity', 'sparsity': 0.875}
_BALANCED = {'load_balance': 0.01, 'router_z': 0.001}
VARIANTS: dict[str, dict[str, Any]] = {
    'dense': {'model.moe_every': 0, 'model.dense.hidden': 139},
    'top_k': _router('top_k', _BALANCED),
    'top_k, no balance': _router('top_k'),
    'top_k, capacity 1.25': _router('top_k', _BALANCED) | _CAPACITY,
    'switch, capacity 1.25': _router('switch', _BALANCED)
    | _CAPACITY
    | {'model.moe.experts.hidden': 128, 'model.moe.jitter': 0.01},
    'top2, capacity 1.25': _router('top2', _BALANCED) | _CAPACITY,
    'noisy_top_k': _router('noisy_top_k', {'importance': 0.1, 'load': 0.1}),
    'sigmoid, bias': _router('sigmoid', balance=_SIGN),
    'group_limited, bias': _router('group_limited', k=2, balance=_SIGN),
    'sinkhorn': _router('sinkhorn', k=2),
    'top_p': _router('top_p', _BALANCED, k=4, p=0.4),
    'relu': _router('relu', {'l1': 1.0}, k=8, penalty=_SPARSITY),
    'hierarchical, 4 groups of 4': _router('top_k', _BALANCED, k=2)
    | {
        'model.moe.hierarchy': {
            'groups': 4,
            'router': {'name': 'top_k', 'k': 1},
        },
    },
    'hash': _router('hash', k=2),
    'random': _router('random', k=2),
}
# Weights of importance and load, arXiv 1701.06538, table 6.
WEIGHTS = {
    f'importance {a}, load {b}': _router(
        'noisy_top_k', {'importance': a, 'load': b}
    )
    for a in (0.0, 0.1)
    for b in (0.0, 0.1)
}


def compare(steps: int, seeds: int) -> list[str]:
    """Trains every variant, and returns the table of results.

    Args:
      steps: number of steps of each run.
      seeds: number of runs of each variant.

    Returns:
      Lines of a table: validation bits per byte, its standard deviation over
      the seeds, and the routing of the last 50 steps, mean over layers and
      seeds.
    """
    lines = [
        f'{steps} steps of 2,048 bytes, {seeds} seeds; routing of the last '
        f'{_TAIL} steps together',
        '',
        '| router | bits/byte | std | max violation | load CV | dropped | '
        'experts a token | tokens/s |',
        '| --- | --- | --- | --- | --- | --- | --- | --- |',
    ]
    for name, changes in VARIANTS.items():
        runs = _runs(_config({**changes, 'steps': steps}), seeds)
        bits = [r['bits_per_byte'] for r in runs]
        spread = statistics.stdev(bits) if seeds > 1 else 0.0
        cells = [f'{statistics.mean(bits):.4f}', f'{spread:.4f}']
        cells += _means(runs, _STATS)
        rate = statistics.median(r['tokens_per_second'] for r in runs)
        lines.append(f'| {name} | {" | ".join(cells)} | {rate:,.0f} |')
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def speed(rounds: int) -> list[str]:
    """Times a training step of every variant, interleaved.

    Args:
      rounds: how many times each is timed.

    Returns:
      Lines of a table: time of a step over that of the dense model.
    """
    calls = {}
    data = _config({}).make_workload().load_data()
    for name, changes in VARIANTS.items():
        config = _config(changes)
        workload = config.make_workload()
        batch = next(workload.train_batches(data, 0, 1))
        state = jax.jit(functools.partial(init_state, config))()
        step = jax.jit(make_train_step(config))
        calls[name] = functools.partial(step, state, batch)
    times = medians(calls, rounds)
    return [
        '| router | step / dense step |',
        '| --- | --- |',
        *(f'| {n} | {t / times["dense"]:.2f} |' for n, t in times.items()),
    ]


def weights(steps: int, seeds: int) -> list[str]:
    """Trains noisy top-k with and without its two losses.

    Args:
      steps: number of steps of each run.
      seeds: number of runs of each variant.

    Returns:
      Lines of a table as in arXiv 1701.06538: variation of importance and of
      load, and the largest load over the mean, over the last 50 steps.
    """
    lines = [
        '| loss weights | bits/byte | CV importance | CV load | max / mean |',
        '| --- | --- | --- | --- | --- |',
    ]
    for name, changes in WEIGHTS.items():
        runs = _runs(_config({**changes, 'steps': steps}), seeds)
        mean = lambda key: statistics.mean(r[key] for r in runs)  # noqa: B023
        lines.append(
            f'| {name} | {mean("bits_per_byte"):.4f} | '
            f'{mean("importance_cv"):.2f} | {mean("load_cv"):.2f} | '
            f'{1 + mean("max_violation"):.2f} |'
        )
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def images(steps: int, seeds: int) -> list[str]:
    """Trains the variants of `configs/vision.py`.

    Args:
      steps: number of steps of each run.
      seeds: number of runs of each variant.

    Returns:
      Lines of a table: validation accuracy, its standard deviation over the
      seeds, and the routing of the last 50 steps.
    """
    lines = [
        '| variant | accuracy | std | max violation | dropped | images/s |',
        '| --- | --- | --- | --- | --- | --- |',
    ]
    for name in vision.VARIANTS:
        plain = vision.get_config(name).to_dict()
        config = registry.read_config({**plain, 'steps': steps})
        runs = _runs(config, seeds)
        right = [100 * r['accuracy'] for r in runs]
        spread = statistics.stdev(right) if seeds > 1 else 0.0
        cells = [f'{statistics.mean(right):.1f} %', f'{spread:.1f}']
        cells += _means(runs, ('max_violation', 'dropped'))
        rate = statistics.median(r['examples_per_second'] for r in runs)
        lines.append(f'| {name} | {" | ".join(cells)} | {rate:,.0f} |')
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def _means(runs: Sequence[Mapping], stats: Sequence[str]) -> list[str]:
    """The mean of each statistic over the runs, '' for a model without it."""
    found = ([r[stat] for r in runs if stat in r] for stat in stats)
    return [f'{statistics.mean(v):.2f}' if v else '' for v in found]


def _runs(config, seeds) -> list[dict[str, float]]:
    """One result a seed; the programs are compiled once."""
    programs = _Programs(config)
    return [_run(programs, config, seed) for seed in range(seeds)]


class _Programs:
    """The data and compiled steps that the runs of all seeds share."""

    def __init__(self, config):
        self.data = config.make_workload().load_data()
        self.init = jax.jit(lambda key: init_state(config, key))
        self.train_step = jax.jit(make_train_step(config), donate_argnums=0)
        self.eval_step = jax.jit(make_eval_step(config))


class _Trainer:
    """A trainer, driven by the training loop, that times a run without saving.

    Args:
      programs: data and compiled steps of the config.
      workload: workload of the run's seed.
      seed: seed of the parameters.
      steps: number of steps of the run.

    Attributes:
      clock: the clock of the time in training.
      tail: metrics of the last steps.
      evaluation: results of the evaluation after the last step.
    """

    start = 0

    def __init__(self, programs: _Programs, workload, seed: int, steps: int):
        self._programs, self._workload = programs, workload
        self._state = programs.init(jax.random.key(seed))
        self._batches = workload.train_batches(programs.data, 0, 1)
        self._steps, self._step = steps, 0
        self.clock = Clock(steps, workload)
        self.tail: list[Any] = []
        self.evaluation: list[Any] = []

    def advance(self):
        self._state, metrics = self._programs.train_step(
            self._state, next(self._batches)
        )
        self._step += 1
        if self._step > self._steps - _TAIL:
            self.tail.append(metrics)
        return metrics

    def evaluate(self):
        for batch in self._workload.eval_batches(self._programs.data, 0, 1):
            yield self._programs.eval_step(self._state, batch)

    def log(self, step, metrics, evaluation):
        self.evaluation = evaluation

    def improved(self, step):
        """Returns False: there is no checkpoint."""
        return False

    def ended(self):
        """Returns None: all steps are taken."""
        return None

    def save(self, step):
        pass


def _run(programs: _Programs, config, seed: int) -> dict[str, float]:
    steps = config.steps
    # Evaluated and logged at the end alone.
    config = dataclasses.replace(
        config, seed=seed, eval_every=steps, log_every=steps
    )
    workload = config.make_workload()
    trainer = _Trainer(programs, workload, seed, steps)
    train(trainer, config)
    (rate,) = trainer.clock.speed().values()
    result = {
        **metrics_of(workload, trainer.evaluation),
        'tokens_per_second': rate,
        'examples_per_second': rate
        * config.data.batch_size
        / workload.units_per_step,
    }
    tail = jax.device_get(trainer.tail)
    if 'moe' in tail[0]:
        # Of all the tail's tokens together, as MaxVio_global of 2408.15664.
        load = np.mean([m['moe']['load'] for m in tail], axis=0)
        result['max_violation'] = float(np.mean(np.max(load, -1)) - 1)
        result['load_cv'] = float(np.mean(np.std(load, -1)))
        for stat in ('dropped', 'experts_per_token'):
            result[stat] = float(np.mean([m['moe'][stat] for m in tail]))
        squared = np.mean([m['train/importance'] for m in tail])
        result['importance_cv'] = float(np.sqrt(squared))
    return result


def _config(changes: Mapping[str, Any]) -> training.Config:
    changes = {**_SIZES, **changes}
    return registry.read_config(lm.get_config(), changes.items())

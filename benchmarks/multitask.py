"""Published experiments with several tasks, all seeds in one program.

S seeds, N rows, B rows a batch.
"""

import functools
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from benchmarks.timing import medians
from configs import multitask
from moe import training
from moe.config import changed
from moe.experts import Network
from moe.layers.multitask import shared_routes
from moe.training.evaluation import metrics_of
from moe.training.step import init_state, make_eval_step, make_train_step
from moe.workloads import registry

_CHUNK = 1000  # steps a call


def train(
    config: Any, workload: Any, datas: Sequence[Any], seeds: int
) -> tuple[list[dict[str, float]], Any, float]:
    """Trains the same model from every seed at once.

    Args:
      config: config of the runs.
      workload: workload of the runs.
      datas: data of each seed, or one for all, with `train` and `val` rows, and
        `test` rows, which are evaluated instead of `val` if there are any.
      seeds: S.

    Returns:
      The results of each seed, the statistics of its mixtures on the last
      batch, and the seconds that training took.
    """
    shared = len(datas) == 1
    axis = None if shared else 0
    rows = _stacked([data.train for data in datas])
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    states = jax.jit(jax.vmap(lambda key: init_state(config, key, workload)))(
        keys
    )
    step = make_train_step(config, workload)

    def many(state, rows, order):
        def one(state, index):
            batch = {name: v[index] for name, v in rows.items()}
            batch['valid'] = jnp.ones(index.shape, bool)
            state, metrics = step(state, batch)
            return state, metrics['train/loss']

        return lax.scan(one, state, order)

    advance = jax.jit(jax.vmap(many, in_axes=(0, axis, 0)), donate_argnums=0)
    count = next(iter(datas[0].train.values())).shape[0]
    begun = time.perf_counter()
    for order in _orders(count, config, seeds):
        states, losses = advance(states, rows, order)
        if not np.all(np.isfinite(losses)):
            raise training.Diverged('a run has no finite loss')
    jax.block_until_ready(states)
    seconds = time.perf_counter() - begun

    held_out = [
        data.test
        if len(getattr(data, 'test', {}).get('label', ()))
        else data.val
        for data in datas
    ]
    held = _stacked(held_out)
    held['valid'] = jnp.ones(held['mask'].shape[:-1], bool)
    evaluate = jax.jit(
        jax.vmap(make_eval_step(config, workload), in_axes=(0, axis))
    )
    found = jax.device_get(evaluate(states, held))
    results = [
        metrics_of(workload, [jax.tree.map(lambda x: x[i], found)])  # noqa: B023
        for i in range(seeds)
    ]
    forward = jax.jit(
        jax.vmap(
            lambda state, batch: (
                workload.forward(state.variables, batch).aux.stats
            ),
            in_axes=(0, axis),
        )
    )
    return results, jax.device_get(forward(states, held)), seconds


def synthetic(steps: int, seeds: int) -> list[str]:
    """MMoE's figure 4: models of one size on ever more alike tasks.

    Args:
      steps: number of steps of each run, with batches of 128 of 200,000 rows.
      seeds: each of a function, rows and parameters of its own.

    Returns:
      Lines of a table: test error, mean over the tasks, and its spread.
    """
    models = ('single_task', 'shared_bottom', 'omoe', 'mmoe', 'cgc', 'ple')
    lines = [
        f'{steps:,} steps, {seeds} seeds; mean squared error on 20,000 other '
        'rows, mean over both tasks (the noise alone is .0100)',
        '',
        '| p | model | parameters | error | std | minutes |',
        '| --- | --- | --- | --- | --- | --- |',
    ]
    for correlation in (0.5, 0.9, 1.0):
        configs = [
            _config(
                f'{models[0]},synthetic',
                {
                    'data.source.correlation': correlation,
                    'data.source.seed': seed,
                },
            )
            for seed in range(seeds)
        ]
        datas = [config.make_workload().load_data() for config in configs]
        for model in models:
            changes = {'data.source.correlation': correlation, 'steps': steps}
            config = _config(f'{model},synthetic', changes)
            workload = config.make_workload()
            results, _, seconds = train(config, workload, datas, seeds)
            errors = [r['loss'] / 2 for r in results]
            count, _ = workload.count_parameters()
            lines.append(
                f'| {correlation} | {model} | {count:,} | {_spread(errors, 4)} '
                f'| {seconds / 60:.1f} |'
            )
            print(lines[-1], file=sys.stderr, flush=True)
    return lines


def census(files: str, seeds: int) -> list[str]:
    """Census-income: four models, two tasks.

    Args:
      files: the user's copy of the table.
      seeds: number of seeds, of parameters and row order; the split is fixed.

    Returns:
      Lines of a table: AUC on the test rows, and its spread.
    """
    lines = [
        f'{seeds} seeds; AUC on the test rows',
        '',
        '| model | income | std | never married | std | minutes |',
        '| --- | --- | --- | --- | --- | --- |',
    ]
    data = None
    for model in ('single_task', 'shared_bottom', 'omoe', 'mmoe', 'ple'):
        config = _config(
            f'{model},census',
            {'data.source.files': files, 'model.features.onehot_up_to': 10_000},
        )
        workload = config.make_workload()
        if data is None:
            data = workload.load_data()
        workload.build(data.inputs)
        results, _, seconds = train(config, workload, [data], seeds)
        cells = [
            _spread([r[f'{name}/auc'] for r in results], 4)
            for name in ('income', 'never_married')
        ]
        lines.append(f'| {model} | {" | ".join(cells)} | {seconds / 60:.1f} |')
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def snr(steps: int, seeds: int) -> list[str]:
    """Sub-network routing: what the L0 weight and the tasks' likeness do.

    Args:
      steps: number of steps of each run.
      seeds: each of a function, rows and parameters of its own.

    Returns:
      Lines of a table: share of routes open in evaluation, of all and to the
      tasks, the share of a task's routes that are open for the other too, and
      the test error.
    """
    lines = [
        f'{steps:,} steps, {seeds} seeds',
        '',
        '| p | l0 weight | open | std | to the tasks | shared | error |',
        '| --- | --- | --- | --- | --- | --- | --- |',
    ]
    for correlation in (0.5, 1.0):
        make = lambda seed: _config(
            'snr_trans,synthetic',
            {'data.source.correlation': correlation, 'data.source.seed': seed},  # noqa: B023
        )
        datas = [
            make(seed).make_workload().load_data() for seed in range(seeds)
        ]
        for weight in (0.0, 0.03, 0.1, 0.2, 0.4):
            changes = {
                'data.source.correlation': correlation,
                'losses.l0': weight,
                'model.mixture.networks': (8,),
                'steps': steps,
            }
            config = _config('snr_trans,synthetic', changes)
            workload = config.make_workload()
            results, stats, _ = train(config, workload, datas, seeds)
            gates = {k: v for k, v in stats.items() if k.endswith('/gate')}
            share = [
                float(np.mean(np.concatenate(
                    [np.ravel(z[i] > 0) for z in gates.values()]
                )))
                for i in range(seeds)
            ]  # fmt: skip
            last = gates[max(gates)]
            both = [_both(z) for z in last]
            known = [b for b in both if b is not None]
            cell = f'{statistics.mean(known):.2f}' if known else '-'
            lines.append(
                f'| {correlation} | {weight:g} | {_spread(share, 2)} | '
                f'{float(np.mean(last > 0)):.2f} | {cell} | '
                f'{statistics.mean(r["loss"] / 2 for r in results):.4f} |'
            )
            print(lines[-1], file=sys.stderr, flush=True)
    return lines


def _both(z: np.ndarray) -> float | None:
    """Mean share of a task's open routes that the other has too."""
    if not np.all(np.any(z > 0, axis=1)):
        return None
    shares = np.asarray(shared_routes(jnp.asarray(z)))
    return float((shares[0, 1] + shares[1, 0]) / 2)


def _orders(count: int, config, seeds: int) -> Iterator[Any]:
    """Indices [S, chunk, B] of every step's rows; each epoch is shuffled."""
    size = config.data.batch_size
    draws = [np.random.default_rng((seed, 7)) for seed in range(seeds)]
    total = config.steps * size
    epochs = -(-total // count)
    order = np.stack(
        [
            np.concatenate([d.permutation(count) for _ in range(epochs)])
            for d in draws
        ]
    )[:, :total].astype(np.int32)
    order = order.reshape(seeds, config.steps, size)
    for first in range(0, config.steps, _CHUNK):
        yield order[:, first : first + _CHUNK]


def _stacked(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """Rows of every seed [S, N, ...], or of one for all [N, ...]."""
    if len(rows) == 1:
        return {k: jnp.asarray(v) for k, v in rows[0].items()}
    stack = lambda name: jnp.asarray(np.stack([r[name] for r in rows]))
    return {name: stack(name) for name in rows[0]}


def _spread(values: Sequence[float], digits: int) -> str:
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return f'{statistics.mean(values):.{digits}f} | {std:.{digits}f}'


def _config(variant: str, changes: Mapping[str, Any]) -> Any:
    plain = multitask.get_config(variant).to_dict()
    return registry.read_config(changed(plain, changes))


def speed(rounds: int) -> list[str]:
    """Times a training step of mixtures against dense networks.

    Args:
      rounds: number of measurements of each, interleaved.

    Returns:
      Lines of a table: a step of 1,024 rows with two tasks over that of a
      dense network of the same useful FLOPs, both with Adam.
    """
    calls, flops, names = {}, {}, []
    for model, inputs, experts, widths in (
        ('mmoe', 100, 8, (16,)),
        ('mmoe', 512, 8, (16,)),
        ('mmoe', 100, 8, (32, 16)),
        ('mmoe', 100, 32, (16,)),
        ('cgc', 100, 8, (16,)),
        ('ple', 100, 8, (16,)),
    ):
        changes = {
            'model.expert.widths': widths,
            'data.source.num_features': inputs,
            'data.source.num_rows': 4096,
            'data.batch_size': 1024,
        }
        if model == 'mmoe':
            changes['model.mixture.num_experts'] = experts
        config = _config(f'{model},synthetic', changes)
        workload = config.make_workload()
        batch = next(workload.train_batches(workload.load_data(), 0, 1))
        state = init_state(config, workload=workload)
        name = f'{model}, {inputs} inputs, {experts} experts {widths}'
        multiplies = sum(
            leaf.size
            for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
            if path[-1].key in ('kernel', 'router')
        )
        names.append(name)
        flops[name] = multiplies
        calls[name] = _repeated(make_train_step(config, workload), state, batch)
        calls[f'dense for {name}'] = _repeated(  # type: ignore[call-arg]
            *_dense(multiplies, config), batch
        )
    times = medians(calls, rounds)
    return [
        '| mixture | multiply-adds a row | milliseconds | step / dense step |',
        '| --- | --- | --- | --- |',
        *(
            f'| {n} | {flops[n]:,} | {1e3 * times[n] / _STEPS:.2f} | '
            f'{times[n] / times[f"dense for {n}"]:.2f} |'
            for n in names
        ),
    ]


_STEPS = 20  # a call, so that starting it does not count


def _repeated(step, state, batch):
    """Twenty steps in one program."""
    many = lambda s: lax.scan(
        lambda s, _: (step(s, batch)[0], None), s, length=_STEPS
    )[0]
    return functools.partial(jax.jit(many), state)


def _dense(multiplies: int, config):
    """A step of a network of one hidden layer with so many multiply-adds."""
    inputs, outputs = (
        config.data.source.num_features,
        config.data.source.num_tasks,
    )
    hidden = round(multiplies / (inputs + outputs))
    network = Network((hidden, outputs))
    optimizer = optax.adam(config.optimizer.learning_rate)
    params = network.init(jax.random.key(0), jnp.zeros((1, inputs)))

    def loss(params, batch):
        error = network.apply(params, batch['numeric']) - batch['label']
        return jnp.sum(jnp.mean(jnp.square(error), axis=0))

    def step(state, batch):
        params, moments = state
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, moments = optimizer.update(grads, moments)
        return (optax.apply_updates(params, updates), moments), value

    return step, (params, optimizer.init(params))

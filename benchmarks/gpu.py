"""Suite `gpu`: published layers and a whole step on one NVIDIA GPU.

`--dry_run` traces and lowers every program for CUDA by its shapes, anywhere.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import layers, step
from benchmarks.layer import checked, compared
from benchmarks.problem import Problem, Setting, inputs, weights
from benchmarks.record import Record, measured
from benchmarks.timing import Call, Case, Timing, measure
from configs import models

# One layer of published models, at 4,096 tokens: arXiv 2401.04088, 2409.02060,
# 2505.09388 and 2412.19437. Of DeepSeek-V3's 256 experts a card has 64, as
# with experts over four: all of them and their gradient are 45 GB.
_OF = {
    'Mixtral 8x7B': (4096, 14_336, 8, 2),
    'OLMoE 1B-7B': (2048, 1024, 64, 8),
    'Qwen3 30B-A3B': (2048, 768, 128, 8),
    'DeepSeek-V3, 64 experts': (7168, 2048, 64, 8),
}
SETTINGS = {
    name: Setting(4096, width, hidden, experts, k, dtype='bfloat16')
    for name, (width, hidden, experts, k) in _OF.items()
}
_REPEATS = 5
_COPIED = 2**30

# Two layers of OLMoE: with all 16 the state of Adam does not fit on a card.
STEPS: dict[str, dict[str, Any]] = {
    'OLMoE 1B-7B, 2 layers': {},
    step.DENSE: {'model.moe_every': 0, 'model.dense.hidden': 8 * 1024},
}
_STEP: dict[str, Any] = {
    'model.num_layers': 2,
    'model.attention': 'cudnn',
    'model.remat': 'none',
    'model.moe.dispatcher': 'grouped',
    'model.moe.communication': 'none',
    'model.moe.capacity': 'dropless',
    'data.batch_size': 4,
}

# Peak FLOP/s of dense products in bfloat16 by part of the device's name, the
# longer names first. Source: NVIDIA's data sheets of the cards.
PEAKS = {
    'GB200': 2.5e15,
    'B200': 2.25e15,
    'H200': 989e12,
    'H100': 989e12,
    'A100': 312e12,
}
# Of results on the card against float32 on the host, relative to their norm.
_TOLERANCES = {'float32': 5e-3, 'bfloat16': 5e-2}
_CHECKED = Setting(512, 256, 256, 16)


def why_not() -> str:
    """Returns why the suite cannot run here; '' if it can."""
    device = jax.devices()[0]
    if device.platform == 'gpu' and 'nvidia' in device.device_kind.lower():
        return ''
    return f'JAX finds no NVIDIA GPU ({device.device_kind})'


def run(rounds: int, experts: Sequence[int] = ()) -> Iterator[Record]:
    """Yields numerics, then layers, then steps.

    Args:
      rounds: how many times each case is timed.
      experts: the layers to measure by numbers of experts; all if it is empty.
    """
    yield from numerics()
    for name, setting in SETTINGS.items():
        if experts and setting.num_experts not in experts:
            continue
        tried = [_copy(), *layers.cases(setting, repeats=_REPEATS)]
        found = checked(measure(tried, rounds, layers.digest))
        for record in compared(found, setting):
            yield {**record, 'model': name}
    cases = [step.jax_case(n, _config(n)) for n in STEPS]
    kind = jax.devices()[0].device_kind
    peak = next((p for n, p in PEAKS.items() if n in kind), None)
    for record in step.records(cases, rounds):
        speed = record.get('useful_gflops_per_second')
        if speed and peak:
            record['mfu'] = round(1e9 * speed / peak, 4)
        yield record


def dry_run() -> Iterator[Record]:
    """Yields what `run` would, lowered for CUDA by shapes alone."""
    for name, setting in SETTINGS.items():
        params, dense, x = Problem(setting).shapes()
        for case, (layer, rows) in layers.jax_layers(setting).items():
            given = dense if case.startswith('dense') else params
            function = jax.jit(layers.gradients(layer))
            facts = {'model': name, **setting.facts()}
            yield _lowered(Case(case, _nothing, 0, rows, '', facts), function,
                           given, x)  # fmt: skip
        for case in layers.PEERS:
            yield {'case': case, 'model': name, 'lowered': 'is not JAX'}
    for name in STEPS:
        # cuDNN is asked for its version when it is traced.
        config = _config(name, {'model.attention': 'xla'})
        facts = step.facts(config)
        yield _lowered(Case(name, _nothing, facts=facts), *step.program(config))


def _lowered(case: Case, function: Any, *shapes: Any) -> Record:
    try:
        traced = function.trace(*shapes)
        text = traced.lower(lowering_platforms=('cuda',)).as_text()
    except Exception as error:
        reason = ' '.join(f'{type(error).__name__}: {error}'.split())
        timing = Timing(not_run=reason[:200], failed=True)
        return measured(case, timing)
    count = text.count(' = ')
    return measured(case, None, lowered=f'{count:,} instructions')


def _config(name: str, more: dict[str, Any] | None = None) -> Any:
    changes = {**_STEP, **STEPS[name], **(more or {})}
    return step.config_of(models.get_config('olmoe_1b_7b'), changes)


def _nothing() -> Call:
    raise NotImplementedError('lowered alone')


def _copy() -> Case:
    """A copy of the card's memory, by one more than is there."""

    def build() -> Call:
        x = jnp.ones(_COPIED // 4)
        copy = jax.jit(lambda x: x + 1).lower(x).compile()

        def call():
            for _ in range(_REPEATS):
                result = copy(x)
            return jax.block_until_ready(result)

        return call

    facts = {'bytes': _COPIED}
    return Case('copy of memory', build, facts=facts, repeats=_REPEATS)


def numerics(setting: Setting = _CHECKED) -> Iterator[Record]:
    """Yields the errors of the layer, against one-hot dispatch on the host.

    Args:
      setting: the setting; its experts are chosen by logits that differ by 1,
        so that rounding changes no choice, and the last two get no token.
    """
    draw = np.random.default_rng(0)
    order = np.tile(np.arange(setting.num_experts), (setting.tokens, 1))
    chosen = draw.permuted(order[:, :-2], axis=1)
    wanted = np.concatenate([chosen + 2, order[:, :2]], axis=1)
    for dtype, tolerance in _TOLERANCES.items():
        here = dataclasses.replace(setting, dtype=dtype)
        x, router = inputs(here, wanted.astype(np.float32))
        experts = weights(here.num_experts, here.width, here.hidden, dtype)
        params = {'router': jnp.asarray(router), 'experts': experts}
        given = params, jnp.asarray(x, dtype)
        exact = dataclasses.replace(setting, dtype='float32')
        desired = _on_host(layers.ours(exact, 'onehot', None), given)
        for name in ('grouped', 'indexed', 'onehot'):
            function = layers.gradients(layers.ours(here, name, None))
            errors = _errors(jax.jit(function)(*given), desired)
            bad = max(errors.values()) > tolerance
            failed = {'failed': f'an error above {tolerance}'} if bad else {}
            case = Case(f'numerics: {name}', _nothing, facts=here.facts())
            yield measured(case, None, errors=errors, **failed)


def _on_host(layer: layers.Layer, given: Any) -> Any:
    host = jax.devices('cpu')[0]
    wide = jax.tree.map(
        lambda a: jax.device_put(np.asarray(a, np.float32), host), given
    )
    with jax.default_device(host):
        return jax.jit(layers.gradients(layer))(*wide)


def _errors(actual: Any, desired: Any) -> dict[str, float]:
    """Norm of the difference over that of the result, of every part."""

    def error(a, b):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        return float(f'{np.linalg.norm(a - b) / np.linalg.norm(b):.2e}')

    loss, (params, dx) = jax.tree.map(error, actual, desired)
    return {
        'loss': loss,
        'tokens': dx,
        'router': params['router'],
        'experts': max(params['experts'].values()),
    }

"""Suites `memory` and `compile`: what the compiler says, and how long it takes.

A rows, D width, F hidden width of an expert.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import step
from benchmarks.layer import SETTINGS
from benchmarks.layers import gradients, jax_layers
from benchmarks.problem import Problem, Setting
from benchmarks.record import Record, measured
from benchmarks.timing import Call, Case, Timing
from configs import lm

MIB = 2.0**20
_COMPILED = ('grouped, dropless', 'indexed, capacity 1.25')


def least_bytes(setting: Setting) -> float:
    """Returns the bytes that the backward pass of a layer cannot do without.

    `A * (D + 2 F)` numbers: the tokens sorted by expert, and both hidden
    products of a gated expert. All else can be written over these, or is an
    argument or a result.

    Args:
      setting: the setting.
    """
    numbers = setting.rows * (setting.width + 2 * setting.hidden)
    return float(numbers * jnp.dtype(setting.dtype).itemsize)


def analysis(program: Any) -> Any:
    """Returns the compiler's analysis of a program's memory.

    Args:
      program: a compiled program.
    """
    return program.memory_analysis()


def memory(size: str) -> Iterator[Record]:
    """Yields the temporaries of each layer, forward and backward.

    Args:
      size: a key of `benchmarks.layer.SETTINGS`.
    """
    for setting, _ in SETTINGS[size]:
        params, dense, x = Problem(setting).shapes()
        least = least_bytes(setting)
        for name, (layer, rows) in jax_layers(setting).items():
            given = dense if name.startswith('dense') else params
            program = jax.jit(gradients(layer)).lower(given, x).compile()
            found = analysis(program).temp_size_in_bytes
            yield measured(
                Case(name, _nothing, rows=rows, facts=setting.facts()),
                None,
                temporaries_mib=round(found / MIB, 1),
                least_mib=round(least / MIB, 1),
                temporaries_over_least=round(found / least, 3),
            )


def compilation(size: str, rounds: int) -> Iterator[Record]:
    """Yields the seconds of tracing, lowering and compiling of programs.

    Args:
      size: a key of `benchmarks.layer.SETTINGS` and `benchmarks.step.SIZES`.
      rounds: how many times each is compiled, without any cache.
    """
    programs = dict(_programs(size))
    seconds: dict[tuple, list[tuple[float, ...]]] = {k: [] for k in programs}
    sizes: dict[tuple, dict[str, int]] = {}
    for _ in range(rounds):
        for key, (_, make) in programs.items():
            jax.clear_caches()
            function, arguments = make()
            ends = [time.perf_counter()]
            traced = function.trace(*arguments)
            ends.append(time.perf_counter())
            lowered = traced.lower()
            ends.append(time.perf_counter())
            compiled = lowered.compile()
            ends.append(time.perf_counter())
            seconds[key].append(
                tuple(b - a for a, b in itertools.pairwise(ends))
            )
            code = analysis(compiled).generated_code_size_in_bytes
            sizes[key] = {
                'instructions': compiled.as_text().count(' = '),
                'code_bytes': code,
            }
    for key, (facts, _) in programs.items():
        stages = zip(*seconds[key], strict=True)
        medians = [round(statistics.median(s), 3) for s in stages]
        names = ('trace_seconds', 'lower_seconds', 'compile_seconds')
        case = Case(key[0], _nothing, facts=facts)
        yield measured(
            case,
            Timing(tuple(sum(parts) for parts in seconds[key])),
            **dict(zip(names, medians, strict=True)),
            **sizes[key],
        )


def _nothing() -> Call:
    raise NotImplementedError('compiled alone')


_Make = Callable[[], tuple[Any, tuple]]


def _programs(size: str) -> Iterator[tuple[tuple, tuple[dict, _Make]]]:
    """Yields name and setting, facts, and what makes a jitted function."""
    for variant in ('quickstart', 'dense'):
        config = step.config_of(lm.get_config(variant), step.SIZES[size])

        def make_step(config=config):
            function, *arguments = step.program(config)
            return function, tuple(arguments)

        yield (f'step: {variant}', None), (step.facts(config), make_step)
    for setting, _ in SETTINGS[size]:
        params, _, x = Problem(setting).shapes()
        for name in _COMPILED:
            layer = jax_layers(setting)[name][0]
            make = lambda layer=layer, given=(params, x): (
                jax.jit(gradients(layer)),
                given,
            )
            yield (f'layer: {name}', setting), (setting.facts(), make)

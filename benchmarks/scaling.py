"""Suites `scaling` and `devices`: the layer as one size grows.

T tokens, D width, E experts, K choices a token.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import layers
from benchmarks.problem import FACTOR, Problem, Setting
from benchmarks.record import Record, measured
from benchmarks.timing import Call, Case, measure, waiting
from moe.parallel import MeshConfig, batch_sharding, make_mesh

_CASES = ('dense (XLA)', 'grouped, dropless', 'indexed, capacity 1.25')
_BASE = Setting(tokens=2048, width=256, hidden=512, num_experts=16)
_SMALL = Setting(tokens=256, width=16, hidden=16, num_experts=4, group=64)

# Size -> the setting, and the values of each axis by its letter.
SETTINGS: dict[str, tuple[Setting, dict[str, tuple[int, ...]]]] = {
    'full': (
        _BASE,
        {
            'T': (512, 2048, 8192),
            'E': (4, 16, 64, 256),
            'K': (1, 2, 4, 8),
            'D': (128, 256, 512, 1024),
        },
    ),
    'small': (_SMALL, {'T': (256, 512), 'E': (4, 8)}),
}
_FIELDS = {'T': 'tokens', 'E': 'num_experts', 'K': 'k', 'D': 'width'}


def run(size: str, rounds: int) -> Iterator[Record]:
    """Yields records of layers that differ from one setting in one size.

    With D the hidden width of an expert grows too, as 2 D.

    Args:
      size: a key of SETTINGS.
      rounds: how many times each case is timed.
    """
    base, axes = SETTINGS[size]
    for axis, values in axes.items():
        tried = []
        for value in values:
            changes: dict[str, Any] = {_FIELDS[axis]: value}
            if axis == 'D':
                changes['hidden'] = 2 * value
            setting = dataclasses.replace(base, **changes)
            problem = Problem(setting)
            for name, (layer, rows) in layers.jax_layers(setting).items():
                if name in _CASES:
                    case = layers.jax_case(problem, name, layer, rows=rows)
                    facts = {**case.facts, 'axis': axis, 'value': value}
                    tried.append(dataclasses.replace(case, facts=facts))
        found = measure(tried, rounds)
        dense = {
            case.facts['value']: timing.median
            for case, timing in found
            if case.name == _CASES[0] and timing.seconds
        }
        for case, timing in found:
            ratio = {}
            if timing.seconds and case.facts['value'] in dense:
                over = dense[case.facts['value']] / timing.median
                ratio['dense_over_time'] = round(over, 4)
            yield measured(case, timing, **ratio)


# Communication -> dispatcher, capacity factor.
_COMMUNICATION = {
    'all_to_all': ('indexed', FACTOR),
    'ragged': ('grouped', None),
    'gather': ('grouped', None),
}


def devices(size: str, rounds: int) -> Iterator[Record]:
    """Yields records of one layer with its experts on 1, 2, 4… devices.

    On CPU the devices are virtual and share the cores: what grows is the cost
    of the communication and of the parts, not the speed.

    Args:
      size: a key of SETTINGS.
      rounds: how many times each case is timed.
    """
    setting = SETTINGS[size][0]
    problem, tried = Problem(setting), []
    for name, (dispatcher, factor) in _COMMUNICATION.items():
        rows = layers.jax_layers(setting)[
            'indexed, capacity 1.25' if factor else 'grouped, dropless'
        ][1]
        count = 1
        while count <= jax.device_count():
            layer = layers.ours(setting, dispatcher, factor, name)
            tried.append(
                Case(
                    f'{name} ({dispatcher})',
                    _on_devices(problem, layer, count),
                    setting.flops,
                    rows,
                    facts={**setting.facts(), 'expert_devices': count},
                )
            )
            count *= 2
    found = measure(tried, rounds)
    one = {
        case.name: timing.median
        for case, timing in found
        if case.facts['expert_devices'] == 1 and timing.seconds
    }
    for case, timing in found:
        ratio = {}
        if timing.seconds and case.name in one:
            over = timing.median / one[case.name]
            ratio['time_over_one_device'] = round(over, 4)
        yield measured(case, timing, **ratio)


def _on_devices(problem: Problem, layer: layers.Layer, count: int):
    def build() -> Call:
        config = MeshConfig(data=1, expert=count)
        mesh = make_mesh(config, jax.devices()[:count])
        whole = NamedSharding(mesh, P())
        split = NamedSharding(mesh, P('expert'))
        params = {
            'router': jax.device_put(problem.params['router'], whole),
            'experts': jax.device_put(problem.params['experts'], split),
        }
        x = jax.device_put(problem.x, batch_sharding(mesh))
        with jax.set_mesh(mesh):
            step = jax.jit(layers.gradients(layer)).lower(params, x).compile()
        return waiting(lambda: step(params, x))

    return build

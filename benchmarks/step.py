"""Suite `step`: whole training steps of mixtures and of dense models."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.record import Record, measured, why_missing
from benchmarks.timing import Call, Case, measure, waiting
from configs import lm
from moe.training.step import init_state, make_train_step
from moe.workloads import registry

# Changes of `configs/lm.py` by size.
SIZES: dict[str, dict[str, Any]] = {
    'full': {},
    'small': {
        'model.d_model': 16,
        'model.num_layers': 1,
        'model.moe.num_experts': 4,
        'model.moe.experts.hidden': 16,
        'model.dense.hidden': 32,
        'data.seq_len': 16,
        'data.batch_size': 4,
    },
}
MIXTURE = 'mixture (quickstart)'
DENSE = 'dense of equal active FLOPs'
# Name to the modules that it needs.
PEERS = {
    'PyTorch mixture, loop over experts': ('torch',),
    'PyTorch dense of equal active FLOPs': ('torch',),
    'transformers Mixtral, grouped_mm': ('torch', 'transformers'),
}


def run(size: str, rounds: int) -> Iterator[Record]:
    """Yields the records of all steps.

    Args:
      size: a key of SIZES.
      rounds: how many times each is timed.
    """
    mixture, dense = (
        config_of(lm.get_config(variant), SIZES[size])
        for variant in ('quickstart', 'dense')
    )
    cases = [jax_case(MIXTURE, mixture), jax_case(DENSE, dense)]
    for name, modules in PEERS.items():
        config = dense if 'dense' in name else mixture

        def build(name=name, config=config) -> Call:
            from benchmarks import torch_step

            return torch_step.build(name, config.model, tokens(config))

        cases.append(
            Case(
                name,
                build,
                step_flops(config),
                not_run=why_missing(*modules),
                facts=facts(config),
            )
        )
    yield from records(cases, rounds)


def records(cases: list[Case], rounds: int, **more: Any) -> Iterator[Record]:
    """Times steps and yields their records.

    Args:
      cases: the cases, with the facts of `facts`.
      rounds: how many times each is timed.
      **more: further facts of all.
    """
    found = measure(cases, rounds)
    dense = [t.median for c, t in found if c.name == DENSE and t.seconds]
    for case, timing in found:
        speed = {}
        if timing.seconds:
            rate = case.facts['tokens'] / timing.median
            speed['tokens_per_second'] = round(rate)
        if timing.seconds and dense:
            speed['time_over_dense'] = round(timing.median / dense[0], 4)
        yield measured(case, timing, **speed, **more)


def config_of(given: Any, changes: Mapping[str, Any]) -> Any:
    """Returns a checked config with changes.

    Args:
      given: what a config file returns.
      changes: changes by dotted name.
    """
    return registry.read_config(given, changes.items())


def tokens(config: Any) -> np.ndarray:
    """Returns a batch of token ids [B, S + 1], drawn in proportion to 1/rank.

    Args:
      config: config of a language model.
    """
    data, count = config.data, config.model.vocab_size
    shares = 1 / np.arange(1, count + 1)
    draw = np.random.default_rng(0)
    shape = (data.batch_size, data.seq_len + 1)
    return draw.choice(count, shape, p=shares / shares.sum()).astype(np.int32)


def facts(config: Any) -> dict[str, Any]:
    """Returns sizes of a language model, for the record.

    Args:
      config: its config.
    """
    total, active = config.make_workload().count_parameters()
    c = config.model
    return {
        'tokens': config.data.batch_size * config.data.seq_len,
        'sequence': config.data.seq_len,
        'layers': c.num_layers,
        'width': c.d_model,
        'num_experts': c.moe.num_experts if c.moe_every else 0,
        'parameters': total,
        'active_parameters': active,
        'dtype': c.dtype,
    }


def step_flops(config: Any) -> float:
    """Returns the useful FLOPs of a step: 6 a parameter, and attention.

    Causal attention multiplies half of the pairs of positions. Recomputation
    is not useful. Source: appendix B of arXiv 2204.02311.

    Args:
      config: config of a language model.
    """
    c, known = config.model, facts(config)
    pairs = known['tokens'] * known['sequence'] / 2
    attention = 3 * 2 * 2.0 * pairs * c.d_model * c.num_layers
    return 6.0 * known['active_parameters'] * known['tokens'] + attention


def program(config: Any) -> tuple[Any, Any, Any]:
    """Returns the jitted step, and its state and batch as shapes.

    Args:
      config: config of a language model.
    """
    step = jax.jit(make_train_step(config), donate_argnums=0)
    state = jax.eval_shape(functools.partial(init_state, config))
    shape = (config.data.batch_size, config.data.seq_len + 1)
    return step, state, jax.ShapeDtypeStruct(shape, jnp.int32)


def jax_case(name: str, config: Any) -> Case:
    """Returns the step of this library, which goes on from its own state.

    Args:
      name: name of the case.
      config: config of a language model.
    """

    def build() -> Call:
        step, state, batch = program(config)
        compiled = step.lower(state, batch).compile()
        newest = [jax.jit(functools.partial(init_state, config))()]
        rows = jnp.asarray(tokens(config))

        def call():
            newest[0], metrics = compiled(newest[0], rows)
            return metrics['train/loss'], newest[0].step

        return waiting(call)

    return Case(name, build, step_flops(config), facts=facts(config))

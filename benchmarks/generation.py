"""Suite `generation`: tokens that a mixture generates, with a cache."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.record import Record, measured, why_missing
from benchmarks.timing import Call, Case, measure
from moe.experts import MLP
from moe.layers import MoEConfig
from moe.routing import ROUTERS
from moe.workloads.lm.generate import Generator
from moe.workloads.lm.model import LM, LMConfig
from moe.workloads.lm.sampling import Sampling

# Fields of the model, width of its experts, tokens of each prompt, and tokens
# that are generated after the first.
SIZES: dict[str, tuple[dict[str, Any], int, int, int]] = {
    'full': (
        {'d_model': 512, 'num_layers': 8, 'num_heads': 8, 'vocab_size': 8192},
        448,
        100,
        32,
    ),
    'small': (
        {'d_model': 16, 'num_layers': 1, 'num_heads': 2, 'vocab_size': 64},
        16,
        4,
        3,
    ),
}
EXPERTS, CHOICES = 16, 2
BATCHES = (1, 8)
OURS = 'this library'
# What multiplies the experts in transformers, by its own names.
PEERS = ('eager', 'batched_mm', 'grouped_mm')


def run(size: str, rounds: int) -> Iterator[Record]:
    """Yields the records of all batches.

    Args:
      size: a key of SIZES.
      rounds: how many times each case is timed.
    """
    fields, hidden, prompt, further = SIZES[size]
    config = LMConfig(
        **fields,
        num_kv_heads=fields['num_heads'],
        moe=MoEConfig(
            num_experts=EXPERTS,
            experts=functools.partial(MLP, hidden=hidden),
            router=functools.partial(ROUTERS['top_k'], k=CHOICES),
        ),
    )
    ours = functools.cache(lambda: _ours(config))
    for batch in BATCHES:
        draw = np.random.default_rng(0)
        tokens = draw.integers(0, config.vocab_size, (batch, prompt))
        cases = []
        for name in (OURS, *(f'transformers Mixtral, {p}' for p in PEERS)):
            for count in (1, 1 + further):
                cases.append(
                    Case(
                        name,
                        functools.partial(
                            _build, name, config, hidden, ours, tokens, count
                        ),
                        not_run=''
                        if name == OURS
                        else why_missing('torch', 'transformers'),
                        facts={
                            'batch': batch,
                            'prompt': prompt,
                            'generated': count,
                            'dtype': config.dtype,
                        },
                    )
                )
        yield from _records(cases, rounds)


def _records(cases: list[Case], rounds: int) -> Iterator[Record]:
    """Times pairs of cases; what the longer takes beyond is decoding."""
    found = measure(cases, rounds)
    for (first, begun), (whole, timing) in zip(
        found[::2], found[1::2], strict=True
    ):
        yield measured(first, begun)
        speed = {}
        if begun.seconds and timing.seconds:
            batch = whole.facts['batch']
            made = whole.facts['generated'] - first.facts['generated']
            seconds = timing.median - begun.median
            if seconds > 0:
                speed['decoded_per_second'] = round(batch * made / seconds, 1)
            prompts = batch * whole.facts['prompt']
            speed['read_per_second'] = round(prompts / begun.median, 1)
        yield measured(whole, timing, **speed)


def _ours(config: LMConfig) -> Generator:
    tokens = jnp.zeros((1, 2), jnp.int32)
    return Generator(
        config, jax.jit(LM(config).init)(jax.random.key(0), tokens)
    )


def _build(
    name: str,
    config: LMConfig,
    hidden: int,
    ours: Any,
    tokens: np.ndarray,
    count: int,
) -> Call:
    """Returns a call that generates, which has done so once."""
    if name != OURS:
        from benchmarks import torch_generation

        experts = name.rpartition(' ')[2]
        call = torch_generation.build(config, hidden, experts, tokens, count)
        call()
        return call

    def call():
        made = ours().generate(
            tokens,
            jax.random.key(0),
            length=count,
            sampling=Sampling(temperature=0.0),
        )
        return np.stack([one.token for one in made])

    call()  # compiles
    return call

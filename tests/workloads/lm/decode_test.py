"""The programs of generation: how many there are, and what they copy."""

import math
import re

import jax
import numpy as np
import pytest

from moe.workloads.lm.decode import decode, prefill
from moe.workloads.lm.generate import Generator
from moe.workloads.lm.model import LM
from moe.workloads.lm.sampling import Sampling
from tests import tiny

pytestmark = pytest.mark.slow

EXPERTS, WIDTH, HIDDEN = 5, 16, 24


@pytest.fixture(scope='module')
def generator():
    config = tiny.model(
        {
            'moe.num_experts': EXPERTS,
            'moe.experts.hidden': HIDDEN,
            'moe.dispatcher': None,
        }
    )
    tokens = np.zeros((1, 4), np.int32)
    return Generator(
        config, {'params': tiny.parameters(LM(config).init, tokens)}
    )


def run(generator, sizes, temperature):
    draw = np.random.default_rng(3)
    return generator.generate(
        [draw.integers(0, 256, n) for n in sizes],
        jax.random.key(0),
        length=6,
        sampling=Sampling(temperature),
    )


def test_lengths_of_one_power_of_two_share_programs(generator):
    # Other tests of this process may have compiled these programs before.
    prefill.clear_cache()
    decode.clear_cache()
    run(generator, (4, 1), 1.0)
    before = prefill._cache_size(), decode._cache_size()
    run(generator, (9, 2), 0.3)
    assert (prefill._cache_size(), decode._cache_size()) == before
    run(generator, (17, 2), 0.3)
    assert decode._cache_size() == before[1] + 1


def test_a_step_copies_no_weights_of_experts(generator, monkeypatch):
    # Each is [5, 16, 24] or [5, 24, 16], of two gated matrices the double.
    texts = []

    def kept(*args, **options):
        texts.append(decode.lower(*args, **options).compile().as_text())
        return decode(*args, **options)

    monkeypatch.setattr('moe.workloads.lm.generate.decode', kept)
    run(generator, (4, 1), 0.0)
    size = EXPERTS * WIDTH * HIDDEN
    made = re.findall(r'= f32\[([\d,]+)\]\S* ([\w-]+)\(', texts[0])
    large = {
        op
        for shape, op in made
        if math.prod(map(int, shape.split(','))) in (size, 2 * size)
    }
    assert 'parameter' in large
    assert large <= {'parameter', 'get-tuple-element', 'bitcast'}

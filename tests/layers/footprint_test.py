"""What a compiled layer keeps in memory, for CPUs.

A = T*K rows, D and F the widths, E experts, C capacity.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import pytest

from moe.experts import MLP
from moe.layers import MoE
from moe.routing import top_k

# T tokens, one group.
T, D, F, E, K = 512, 48, 176, 10, 2
ROWS = T * K


@pytest.fixture(scope='module', params=['grouped', 'indexed'])
def compiled(request):
    """The name of a dispatcher, and a layer with gradients of everything."""
    layer = MoE(
        experts=MLP(hidden=F, num_experts=E),
        router=functools.partial(top_k, k=K),
        dispatcher=request.param,
        eval_capacity_factor=None if request.param == 'grouped' else 1.25,
    )
    x = jax.ShapeDtypeStruct((1, T, D), jnp.float32)
    variables = jax.eval_shape(layer.init, jax.random.key(0), x)

    def loss(variables, x):
        return jnp.sum(jnp.square(layer.apply(variables, x)[0]))

    step = jax.jit(jax.grad(loss, argnums=(0, 1)))
    return request.param, step.lower(variables, x).compile()


def largest(text):
    """The largest number of entries of an array in a program."""
    shapes = re.findall(r'\b[a-z]+\d*\[([\d,]+)\]', text)
    return max(math.prod(map(int, s.split(','))) for s in shapes)


def test_no_array_is_of_tokens_by_experts_by_capacity(compiled):
    name, program = compiled
    capacity = math.ceil(1.25 * ROWS / E)
    # The hidden rows are the largest; the next would be one-hot dispatching,
    # T*E*C, and what a masked dense product has, E times the rows.
    hidden = (ROWS if name == 'grouped' else E * capacity) * F
    assert largest(program.as_text()) == max(hidden, E * D * F)
    assert hidden < min(T * E * capacity, E * ROWS * D)


def test_temporaries(compiled):
    # The backward pass needs the rows and both hidden products, of F wide.
    name, program = compiled
    rows = ROWS if name == 'grouped' else 1.25 * ROWS
    least = 4 * rows * (2 * F + D)
    assert program.memory_analysis().temp_size_in_bytes < 1.5 * least

"""What plans ask of a workload, by hand."""

import jax
import jax.numpy as jnp
import pytest

from moe.workloads import planning
from moe.workloads.planned import planning_of
from tests import tiny


def of(changes=None):
    return planning_of(tiny.parsed(changes))


def test_useful_flops_of_a_transformer():
    # 6 * active for the parameters, 6 * L 2 * D 16 * S 16 for the causal
    # attention, for each of 8 * 16 tokens.
    found = of({'model.num_layers': 2, 'model.d_model': 16})
    _, active = found.workload.count_parameters()
    assert found.useful_flops() == (6 * active + 3072) * 128
    # In a window of 4 a query sees 4 - 4 * 4 / (2 * 16) = 3.5 in the mean, and
    # 8 in the other layer; heads of 4 numbers have half of the products.
    found = of(
        {
            'model.sliding_window': 4,
            'model.window_layers': (1,),
            'model.head_dim': 4,
        }
    )
    _, active = found.workload.count_parameters()
    attention = 6 * 2 * (4 + 4) * (8 + 3.5)
    assert found.useful_flops() == (6 * active + attention) * 128


@pytest.mark.parametrize(
    ('changes', 'mesh', 'received'),
    [
        # 8 * 16 tokens, each to 2 experts: 256 rows, 32 of each device, 16
        # numbers of 4 bytes wide; 3 of 4 of them go away and come back.
        ({}, {'data': 2, 'expert': 4}, 2 * 32 * 16 * 4 * 3 / 4),
        # Half as wide, in two microbatches.
        (
            {'model.dtype': 'bfloat16', 'optimizer.accumulation': 2},
            {'data': 1, 'expert': 2},
            2 * 64 * 16 * 2 / 2,
        ),
        ({}, {'data': 8, 'expert': 1}, 0.0),
    ],
)
def test_what_a_mixture_has_to_receive(changes, mesh, received):
    sizes = {'replica': 1, 'fsdp': 1, 'tensor': 1, **mesh}
    assert of(changes).least_communicated(sizes) == received


def test_rows_of_the_experts_of_a_device():
    # 8 * 16 tokens, each to 2 experts, over 4 devices; `tensor` divides none.
    sizes = {'replica': 1, 'data': 2, 'fsdp': 1, 'expert': 2, 'tensor': 2}
    assert of({}).rows_of_experts(sizes) == 64
    halves = of({'optimizer.accumulation': 2})
    assert halves.rows_of_experts(sizes) == 32


def test_mixtures_run_for_every_microbatch():
    changes = {'model.moe_every': 2, 'optimizer.accumulation': 4}
    assert of(changes).mixtures == 4


def test_products_of_a_program():
    # 2 * 3 * 5 * 4 each of three times, and its gradient by one side; a
    # product with a vector is a sum.
    def program(x, y, v):
        step = lambda carry, _: (carry + jnp.sum(x @ y), None)
        total, _ = jax.lax.scan(step, 0.0, length=3)
        return total + jnp.sum(jax.jit(lambda x: x @ y)(x)) + jnp.sum(y @ v)

    x, y, v = jnp.ones((3, 5)), jnp.ones((5, 4)), jnp.ones(4)
    one = 2 * 3 * 5 * 4
    forward = jax.make_jaxpr(program)(x, y, v)
    assert planning._products(forward.jaxpr) == 4 * one
    backward = jax.make_jaxpr(jax.grad(program))(x, y, v)
    assert 4 * one < planning._products(backward.jaxpr) <= 8 * one


def test_products_of_stacked_matrices():
    x, y = jnp.ones((7, 3, 5)), jnp.ones((7, 5, 4))
    jaxpr = jax.make_jaxpr(jnp.matmul)(x, y).jaxpr
    assert planning._products(jaxpr) == 7 * 2 * 3 * 5 * 4
    # A vector on one side, and an outer product.
    for left, right in ((x, y[..., :1]), (x[:, :1], y), (x[..., :1], y[:, :1])):
        jaxpr = jax.make_jaxpr(jnp.matmul)(left, right).jaxpr
        assert planning._products(jaxpr) == 0

"""What is taken where, in programs lowered for GPUs that are not here."""

import jax
import jax.numpy as jnp
import pytest

from moe.ops import grouped_matmul
from tests.ops.nvidia.described import mesh_of

pytestmark = pytest.mark.slow

H100, B200 = 'NVIDIA H100 80GB HBM3', 'NVIDIA B200'


def lowered(kind, dtype, rows=512, groups=4, widths=(128, 64), many=0):
    """The program of a product and its gradients."""

    def products(x, w, sizes, dy):
        y, pull = jax.vjp(lambda x, w: grouped_matmul(x, w, sizes), x, w)
        return y, *pull(dy)

    d, f = widths
    shapes = [(rows, d), (groups, d, f), (groups,), (rows, f)]
    dtypes = [dtype, dtype, jnp.int32, dtype]
    run = products
    if many:
        shapes, run = [(many, *shape) for shape in shapes], jax.vmap(run)
    args = map(jax.ShapeDtypeStruct, shapes, dtypes)
    with jax.sharding.use_abstract_mesh(mesh_of(kind)):
        traced = jax.jit(run).trace(*args)
        return traced.lower(lowering_platforms=('cuda',)).as_text()


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_kernels_on_hopper(dtype):
    text = lowered(H100, dtype)
    # y, dx and dw; not one loop or ragged product.
    assert text.count('@mosaic_gpu') == 3
    assert 'ragged_dot' not in text
    assert 'stablehlo.dot_general' not in text


@pytest.mark.parametrize(
    ('kind', 'dtype', 'widths'),
    [
        (H100, jnp.float32, (128, 64)),
        (H100, jnp.bfloat16, (128, 63)),  # mostly padding
        (B200, jnp.bfloat16, (128, 64)),
        ('NVIDIA A100-SXM4-80GB', jnp.bfloat16, (128, 64)),
    ],
)
def test_blocks_elsewhere(kind, dtype, widths):
    text = lowered(kind, dtype, widths=widths)
    assert 'mosaic_gpu' not in text
    assert 'ragged_dot' not in text
    assert text.count('stablehlo.dot_general') == 3


def test_vmap_is_one_after_another():
    # As the kernels have no rule of their own: a loop with one of each.
    text = lowered(H100, jnp.bfloat16, many=3)
    assert text.count('@mosaic_gpu') == 3
    assert text.count('stablehlo.while') >= 2


def test_no_rows():
    assert 'mosaic_gpu' not in lowered(H100, jnp.bfloat16, rows=0)


def test_the_program_does_not_grow_with_the_groups():
    few, many = (lowered(H100, jnp.bfloat16, groups=e) for e in (4, 256))
    assert len(many) < 1.02 * len(few)

"""Attention within a sequence, by the kernel that a machine has for it.

B batch, S positions, H query heads, N key-value heads (H a multiple of N), h
head width.
"""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Positions of queries and keys that the TPU's kernel holds on the chip.
_BLOCK = 512


def splash(
    query: Float[Array, 'B S H h'],
    key: Float[Array, 'B S N h'],
    value: Float[Array, 'B S N h'],
    *,
    is_causal: bool,
    interpret: bool = False,
) -> Float[Array, 'B S H h']:
    """`softmax(Q K^T / sqrt(h)) V` for TPUs, the scores never in the HBM.

    Blocks of scores that the mask empties are not computed. Source:
    FlashAttention, arXiv 2205.14135; the kernel is jax's.

    Args:
      query: any float; S is a multiple of 128.
      key: of the same dtype.
      value: the same.
      is_causal: whether a position sees only itself and those before it.
      interpret: runs where there is no TPU, slowly.

    Returns:
      The mean of the values, in the dtype of `query`.

    Raises:
      ValueError: for a length that the kernel cannot divide.
    """
    # Not before: Pallas takes a second to import.
    from jax.experimental.pallas.ops.tpu import splash_attention as kernels

    length, head = query.shape[1], query.shape[-1]
    if length % 128:
        raise ValueError(f'splash: {length} positions, not a multiple of 128')
    block = next(b for b in (_BLOCK, 256, 128) if length % b == 0)
    kind = kernels.CausalMask if is_causal else kernels.FullMask
    mask = kernels.MultiHeadMask(query.shape[2] * [kind((length, length))])
    kernel = kernels.make_splash_mha_single_device(
        mask,
        block_sizes=kernels.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        residual_checkpoint_name='attention',
        interpret=interpret,
    )
    scaled = query * jnp.asarray(head**-0.5, query.dtype)
    # The kernel is of one sequence, heads first.
    heads_first = lambda x: jnp.swapaxes(x, 1, 2)
    out = jax.vmap(kernel)(*map(heads_first, (scaled, key, value)))
    return heads_first(out)


AttentionKernel = Literal['xla', 'cudnn', 'splash']

# Of (query, key, value, *, is_causal).
ATTENTION_KERNELS: dict[AttentionKernel, Callable] = {
    'xla': jax.nn.dot_product_attention,
    'cudnn': functools.partial(
        jax.nn.dot_product_attention, implementation='cudnn'
    ),
    'splash': splash,
}

"""Attention kernels by name, for all platforms or for one.

B batch, S positions, H query heads, N key-value heads (H a multiple of N), h
head width.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from moe.config import Registry
from moe.config.registry import entry_of
from moe.ops.heads_first import heads_first

# Positions of queries and of keys in a block of the TPU's kernel.
_BLOCK = 512


ATTENTION_KERNELS = Registry('attention kernel')
# Parameters that the attention layer fills in, and no config has.
SUPPLIED = frozenset({'is_causal', 'scale', 'interpret'})


@dataclasses.dataclass(frozen=True)
class KernelTraits:
    """Where a kernel runs, and whether it is sharded by hand.

    Attributes:
      platform: the one platform that has it, such as 'tpu'; None for all.
      by_device: whether it is called inside `shard_map`, on each device's own
        sequences and heads, because the compiler cannot split it.
    """

    platform: str | None = None
    by_device: bool = False


def kernel_traits(**traits: Any) -> Callable[[Any], Any]:
    """Returns a decorator that declares the `KernelTraits` of a kernel."""

    def mark(kernel):
        kernel.traits = KernelTraits(**traits)
        return kernel

    return mark


def traits_of(kernel: Any) -> KernelTraits:
    """Returns the traits of a kernel, or of a partial of one."""
    return getattr(entry_of(kernel), 'traits', KernelTraits())


@ATTENTION_KERNELS.register('xla')
def xla(query, key, value, segments=None, *, is_causal: bool, scale=None):
    """`softmax(Q K^T / sqrt(h)) V` by XLA, on every platform; see `splash`."""
    if segments is not None:
        return jax.nn.dot_product_attention(
            query,
            key,
            value,
            mask=same(segments),
            is_causal=is_causal,
            scale=scale,
        )
    options = {'is_causal': is_causal, 'scale': scale}
    return lax.platform_dependent(
        query,
        key,
        value,
        cpu=functools.partial(heads_first, **options),
        default=functools.partial(jax.nn.dot_product_attention, **options),
    )


@ATTENTION_KERNELS.register('cudnn')
@kernel_traits(platform='gpu')
def cudnn(query, key, value, segments=None, *, is_causal: bool, scale=None):
    """`softmax(Q K^T / sqrt(h)) V` by cuDNN, on NVIDIA GPUs; see `splash`.

    Segments are a mask `[B, 1, S, S]` that cuDNN reads as a bias.
    """
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=None if segments is None else same(segments),
        is_causal=is_causal,
        scale=scale,
        implementation='cudnn',
    )


@ATTENTION_KERNELS.register('splash')
@kernel_traits(platform='tpu', by_device=True)
def splash(
    query: Float[Array, 'B S H h'],
    key: Float[Array, 'B S N h'],
    value: Float[Array, 'B S N h'],
    segments: Int[Array, 'B S'] | None = None,
    *,
    is_causal: bool,
    scale: float | None = None,
    interpret: bool = False,
) -> Float[Array, 'B S H h']:
    """`softmax(Q K^T / sqrt(h)) V` on TPUs, without the scores in HBM.

    Blocks of scores that are masked are not computed. The kernel is jax's.
    Source: FlashAttention, arXiv 2205.14135.

    Args:
      query: queries, any float; S is a multiple of 128.
      key: keys, in the dtype of `query`.
      value: values, in the dtype of `query`.
      segments: number of each position's document, int32; a position sees
        only those of its own. None if all are of one.
      is_causal: whether a position sees only itself and those before it.
      scale: factor on the scores; None for `1 / sqrt(h)`.
      interpret: whether to emulate the kernel without a TPU, slowly.

    Returns:
      The weighted means of the values, in the dtype of `query`.

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
    scale = head**-0.5 if scale is None else scale
    scaled = query * jnp.asarray(scale, query.dtype)
    # The kernel is of one sequence, heads first.
    heads_first = lambda x: jnp.swapaxes(x, 1, 2)
    arguments: list[Any] = list(map(heads_first, (scaled, key, value)))
    if segments is not None:
        arguments.append(kernels.SegmentIds(segments, segments))
    return heads_first(jax.vmap(kernel)(*arguments))


def same(segments: Int[Array, 'B S']) -> Bool[Array, 'B 1 S S']:
    """Returns whether each position is of the document of each other."""
    return (segments[:, :, None] == segments[:, None, :])[:, None]


def takes(kernel: Any, option: str) -> bool:
    """Whether a kernel has an argument that the attention layer may give.

    Args:
      kernel: an entry of `ATTENTION_KERNELS`.
      option: name of the argument, such as `segments`, by which it keeps the
        documents of a sequence apart.
    """
    return option in inspect.signature(entry_of(kernel)).parameters

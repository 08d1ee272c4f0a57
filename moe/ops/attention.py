"""Attention kernels by name, for all platforms or for one.

B batch, S positions, M positions of the keys, H query heads, N key-value heads
(H a multiple of N), h head width, v that of the values, mostly h.
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
SUPPLIED = frozenset({'is_causal', 'scale', 'window', 'interpret'})


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
def xla(
    query,
    key,
    value,
    segments=None,
    sinks=None,
    *,
    is_causal: bool,
    scale=None,
    window=None,
):
    """`softmax(Q K^T / sqrt(h)) V` by XLA, on every platform; see `splash`."""
    options = {'is_causal': is_causal, 'scale': scale}
    if sinks is None and segments is None:
        if query.shape[-1] == value.shape[-1]:
            general: Any = functools.partial(
                jax.nn.dot_product_attention,
                local_window_size=_sides(window),
                **options,
            )
        else:
            general = functools.partial(_masked, window=window, **options)
        on_cpu = functools.partial(heads_first, window=window, **options)
        return lax.platform_dependent(
            query, key, value, cpu=on_cpu, default=general
        )
    if sinks is None and query.shape[-1] == value.shape[-1]:
        return jax.nn.dot_product_attention(
            query,
            key,
            value,
            mask=same(segments),
            local_window_size=_sides(window),
            **options,
        )
    return _masked(query, key, value, segments, sinks, window=window, **options)


@ATTENTION_KERNELS.register('cudnn')
@kernel_traits(platform='gpu')
def cudnn(
    query,
    key,
    value,
    segments=None,
    *,
    is_causal: bool,
    scale=None,
    window=None,
):
    """`softmax(Q K^T / sqrt(h)) V` by cuDNN, on NVIDIA GPUs; see `splash`.

    Segments are a mask `[B, 1, S, S]` that cuDNN reads as a bias. Values that
    are narrower than keys are padded.
    """
    narrower = query.shape[-1] - value.shape[-1]
    padded = jnp.pad(value, (*3 * ((0, 0),), (0, narrower)))
    y = jax.nn.dot_product_attention(
        query,
        key,
        padded if narrower else value,
        mask=None if segments is None else same(segments),
        is_causal=is_causal,
        scale=scale,
        local_window_size=_sides(window),
        implementation='cudnn',
    )
    return y[..., : value.shape[-1]] if narrower else y


@ATTENTION_KERNELS.register('splash')
@kernel_traits(platform='tpu', by_device=True)
def splash(
    query: Float[Array, 'B S H h'],
    key: Float[Array, 'B S N h'],
    value: Float[Array, 'B S N v'],
    segments: Int[Array, 'B S'] | None = None,
    sinks: Float[Array, ' H'] | None = None,
    *,
    is_causal: bool,
    scale: float | None = None,
    window: int | None = None,
    interpret: bool = False,
) -> Float[Array, 'B S H v']:
    """`softmax(Q K^T / sqrt(h)) V` on TPUs, without the scores in HBM.

    Blocks of scores that are masked are not computed. The kernel is jax's.
    Source: FlashAttention, arXiv 2205.14135.

    Args:
      query: queries, any float; S is a multiple of 128.
      key: keys, in the dtype of `query`.
      value: values, in the dtype of `query`.
      segments: number of each position's document, int32; a position sees
        only those of its own. None if all are of one.
      sinks: a score of each head, float32, that takes part in the softmax and
        has no value. None for none. Source: arXiv 2309.17453, by which a
        model need not attend to anything; here of gpt-oss.
      is_causal: whether a position sees only itself and those before it.
      scale: factor on the scores; None for `1 / sqrt(h)`.
      window: number of positions that a causal query sees, itself included;
        None for all.
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
    square = (length, length)
    if window is not None:
        one: Any = kernels.LocalMask(square, (window - 1, 0), 0)
    else:
        kind = kernels.CausalMask if is_causal else kernels.FullMask
        one = kind(square)
    mask = kernels.MultiHeadMask(query.shape[2] * [one])
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
    if sinks is not None:
        kernel = functools.partial(kernel, sinks=sinks)
    return heads_first(jax.vmap(kernel)(*arguments))


def _sides(window: int | None) -> tuple[int, int] | None:
    """Returns how far a causal window reaches to the left and to the right."""
    return None if window is None else (window - 1, 0)


def _masked(
    query, key, value, segments=None, sinks=None, *, is_causal, scale, window
):
    """Attention of all positions to those that they see, by XLA."""
    order = jnp.arange(query.shape[1])
    seen = jnp.ones((1, 1, order.size, order.size), bool)
    if is_causal:
        seen &= within(order[:, None], order, window)
    if segments is not None:
        seen &= same(segments)
    return attend(query, key, value, seen, sinks, scale=scale)


def within(
    position: Int[Array, '*B S 1'],
    columns: Int[Array, ' M'],
    window: int | None = None,
) -> Bool[Array, '... S M']:
    """Returns whether a position sees a column of keys: causally, in a window.

    Args:
      position: absolute positions of the queries, a column, int32.
      columns: those of the keys, int32.
      window: number of positions seen, itself included; None for all.
    """
    seen = columns <= position
    return seen if window is None else seen & (columns > position - window)


def attend(
    query: Float[Array, 'B S H h'],
    key: Float[Array, 'B M N h'],
    value: Float[Array, 'B M N v'],
    seen: Bool[Array, '#B 1 S M'],
    sinks: Float[Array, ' H'] | None = None,
    *,
    scale: float | None = None,
) -> Float[Array, 'B S H v']:
    """`softmax(Q K^T / sqrt(h)) V` by XLA, of the keys that are seen.

    With sinks z the share of key t is `exp(s_t) / (sum exp(s) + exp(z))`. The
    scores and the softmax are float32.

    Args:
      query: queries, any float.
      key: keys, in the dtype of `query`.
      value: values, in the dtype of `query`.
      seen: whether a query sees a key.
      sinks: a score of each head without a value; None for none.
      scale: factor on the scores; None for `1 / sqrt(h)`.

    Returns:
      The weighted means of the values, in the dtype of `query`.
    """
    if sinks is None and query.shape[-1] == value.shape[-1]:
        return jax.nn.dot_product_attention(
            query, key, value, mask=seen, scale=scale
        )
    key, value = (jnp.swapaxes(x, 1, 2) for x in (key, value))
    return attend_kept(query, key, value, seen, sinks, scale=scale)


def attend_kept(
    query: Float[Array, 'B S H h'],
    key: Float[Array, 'B N M h'],
    value: Float[Array, 'B N M v'],
    seen: Bool[Array, '#B 1 S M'],
    sinks: Float[Array, ' H'] | None = None,
    *,
    scale: float | None = None,
) -> Float[Array, 'B S H v']:
    """Returns what `attend` does, of keys kept with the heads first.

    So no product has to bring all that was kept into another order, which takes
    longer than the product where queries are few. Arguments and results are
    those of `attend`, but for the order of the axes of keys and values.
    """
    batch, length, heads, width = query.shape
    groups, columns = key.shape[1:3]
    rows = query.reshape(batch, length, groups, heads // groups, width)
    rows = rows.transpose(0, 2, 3, 1, 4).reshape(batch, groups, -1, width)
    product = functools.partial(
        lax.dot_general, preferred_element_type=jnp.float32
    )
    both = ((0, 1), (0, 1))
    if length > 1:
        # Before the product: within it XLA reads the keys in strides on CPU.
        scores = product(rows, jnp.swapaxes(key, 2, 3), (((3,), (2,)), both))
    else:
        scores = product(rows, key, (((3,), (3,)), both))
    scores = scores.reshape(batch, groups, -1, length, columns)
    scores *= width**-0.5 if scale is None else scale
    scores = jnp.where(seen[:, :, None], scores, -jnp.inf)
    top = jnp.max(scores, axis=-1, keepdims=True)
    if sinks is not None:
        sinks = sinks.astype(jnp.float32).reshape(groups, -1, 1, 1)
        top = jnp.maximum(top, sinks)
    top = lax.stop_gradient(top)
    share = jnp.exp(scores - top)
    total = jnp.sum(share, axis=-1, keepdims=True)
    if sinks is not None:
        total += jnp.exp(sinks - top)
    share = (share / total).astype(query.dtype)
    share = share.reshape(batch, groups, -1, columns)
    y = product(share, value, (((3,), (2,)), both)).astype(query.dtype)
    y = y.reshape(batch, heads, length, -1)
    return jnp.swapaxes(y, 1, 2)


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

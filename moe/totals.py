"""Quantities kept as the sums they are functions of.

The sums of the parts of a batch add up to those of the whole, on any number of
devices or microbatches: `jax.tree.map(jnp.add, one, two)`. What is computed of
them is then that of the whole batch. Every array may have axes in front, one
for each `scan` or `vmap` over layers.
"""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Shaped


class Total(abc.ABC):
    """A function of sums; a pytree of them.

    Attributes:
      count: float32, how many examples or tokens are in the sums. It depends
        on the batch alone, and has no gradient.
    """

    count: Any

    @property
    @abc.abstractmethod
    def term(self) -> Any:
        """Returns the value as a term of an objective: 0 if nothing counts."""

    @property
    def value(self) -> Any:
        """Returns the value; NaN if nothing counts."""
        return jnp.where(self.count > 0, self.term, jnp.nan)

    def as_mean(self) -> 'Mean':
        """Returns a mean over the parts of a batch, each by its count.

        It is what this is, if this is a mean; else its value for each part.
        """
        return Mean(self.term * self.count, self.count)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean(Total):
    """A mean kept as its sum and count.

    Attributes:
      sum: float32, of the values that count.
      count: float32 of the same shape, how many they are.
    """

    sum: Any
    count: Any

    @property
    def term(self) -> Any:
        """Returns the mean; 0 if nothing counts."""
        return self.sum / jnp.where(self.count > 0, self.count, 1.0)

    def as_mean(self) -> 'Mean':
        """Returns itself."""
        return self


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Derived(Total):
    """Any function of sums, such as a product of two means.

    Attributes:
      sums: the sums, a pytree of float32, which may hold other totals.
      count: float32, how many examples or tokens are in them.
      finish: the function, of sums with any number of axes in front. Compared
        when programs are traced: of a module, or a frozen dataclass.
    """

    sums: Any
    count: Any
    finish: Callable[[Any], Any] = dataclasses.field(metadata={'static': True})

    @property
    def term(self) -> Any:
        """Returns the function's value, as it is where nothing counts."""
        return self.finish(self.sums)


def mean_over(
    mask: Bool[Array, '...'] | None, values: Shaped[Array, '...']
) -> Mean:
    """Returns the mean of a value of each example or token.

    Args:
      mask: True for valid ones; None if all are.
      values: the values; where they are not valid they may be anything.
    """
    if mask is None:
        mask = jnp.ones(values.shape, bool)
    total = lambda x: jnp.sum(jnp.where(mask, x, 0.0))
    return Mean(total(values), total(1.0))


def constant(value: Any) -> Mean:
    """Returns a value that is the same in all parts of a batch."""
    return Mean(value, jnp.ones(jnp.shape(value), jnp.float32))


def average(parts: Sequence[Total], *, last_axis: bool = False) -> Total:
    """Returns the mean of totals of the same examples; a `Mean` if all are.

    Args:
      parts: the totals.
      last_axis: whether each has an axis at the end, over which to average too.
    """
    mean = _Average(last_axis)
    count = mean.over([part.count for part in parts])
    means = [part for part in parts if isinstance(part, Mean)]
    if len(means) < len(parts):
        return Derived(tuple(parts), count, mean)
    return Mean(mean.over([part.sum for part in means]), count)


@dataclasses.dataclass(frozen=True)
class _Average:
    last_axis: bool

    def __call__(self, parts):
        return self.over([part.term for part in parts])

    def over(self, arrays):
        if not self.last_axis:
            return sum(arrays) / len(arrays)
        total = sum(jnp.sum(x, axis=-1) for x in arrays)
        return total / sum(x.shape[-1] for x in arrays)

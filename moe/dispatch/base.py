"""The interface of dispatchers, and the registry that configs choose from."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float, Int

from moe.config import Registry
from moe.types import Routing


@runtime_checkable
class Experts(Protocol):
    """Rows in, rows out: [E, N, D] buffers, or sorted rows [A, D] + sizes."""

    def __call__(
        self, rows: Float[Array, '...'], sizes: Int[Array, 'E'] | None = None
    ) -> Float[Array, '...']:
        """Applies each expert to its own rows."""
        ...


Dispatcher = Callable[
    [Float[Array, 'G S D'], Routing, Experts, int | None],
    tuple[jax.Array, jax.Array],
]

DISPATCHERS = Registry('dispatcher')

"""The layer that is measured: its sizes, its rows by load, its arrays.

T tokens, D width, F hidden width, E experts, K choices a token, A = T*K rows.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from benchmarks.timing import Rows
from moe.capacity import capacity

Load = Literal['balanced', 'half', 'zipf']

FACTOR = 1.25  # of the cases with capacity


@dataclasses.dataclass(frozen=True)
class Setting:
    """A layer and the rows that come to its experts.

    Attributes:
      tokens: T.
      width: D.
      hidden: F of an expert; the dense layer has K*F.
      num_experts: E.
      k: K.
      load: 'balanced' draws each expert alike; with 'half' one expert gets
        half of all rows (a choice of every token) and the others the rest
        alike; with 'zipf' expert e is drawn in proportion to 1 / (e + 1).
      dtype: dtype of inputs, weights and products.
      group: tokens of a group, in which capacity counts.
    """

    tokens: int
    width: int
    hidden: int
    num_experts: int
    k: int = 2
    load: Load = 'balanced'
    dtype: str = 'float32'
    group: int = 256

    @property
    def rows(self) -> int:
        """Returns A."""
        return self.tokens * self.k

    @property
    def flops(self) -> float:
        """Returns the useful FLOPs of outputs and gradients of the experts."""
        return 3 * 2.0 * 3 * self.rows * self.width * self.hidden

    @property
    def weight_bytes(self) -> float:
        """Returns the bytes of the matrices of all experts."""
        size = jnp.dtype(self.dtype).itemsize
        return 3.0 * self.num_experts * self.width * self.hidden * size

    @property
    def capacity(self) -> int:
        """Returns C, with the factor 1.25."""
        return capacity(self.group, self.num_experts, self.k, FACTOR)

    def facts(self) -> dict[str, Any]:
        """Returns the fields, for a record."""
        return dataclasses.asdict(self)


def logits(setting: Setting) -> Float[np.ndarray, 'T E']:
    """Returns router logits whose K largest are drawn as the load says.

    Gumbel noise added to log shares draws without replacement in proportion
    to the shares. Source: arXiv 1903.06059.

    Args:
      setting: the setting.
    """
    draw = np.random.default_rng(0)
    count = setting.num_experts
    shares = np.ones(count)
    if setting.load == 'zipf':
        shares = 1 / np.arange(1, count + 1)
    noise = draw.gumbel(size=(setting.tokens, count))
    found = np.log(shares) + noise
    if setting.load == 'half':
        found[:, 0] = found.max(axis=1) + 1
    return found.astype(np.float32)


def inputs(
    setting: Setting, wanted: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns tokens [T, D] and the router's matrix [D, E].

    Their product are the logits: the matrix has orthonormal columns, and
    tokens are normal but for their share in its span.

    Args:
      setting: the setting, whose D is at least E.
      wanted: the logits [T, E]; None for those of the setting's load.
    """
    wanted = logits(setting) if wanted is None else wanted
    draw = np.random.default_rng(1)
    shape = (setting.width, setting.num_experts)
    kernel = np.linalg.qr(draw.standard_normal(shape))[0].astype(np.float32)
    x = draw.standard_normal((setting.tokens, setting.width), np.float32)
    return x + (wanted - x @ kernel) @ kernel.T, kernel


def rows_within_capacity(setting: Setting, capacity: int | None = None) -> Rows:
    """Counts the rows of buffers of E*G*C, from the logits alone.

    Args:
      setting: the setting.
      capacity: C; None for that of the setting.
    """
    capacity = capacity or setting.capacity
    chosen = np.argsort(-logits(setting), axis=1)[:, : setting.k]
    groups = np.arange(setting.tokens) // setting.group
    counts = np.zeros((groups[-1] + 1, setting.num_experts), int)
    np.add.at(counts, (groups[:, None], chosen), 1)
    useful = int(np.minimum(counts, capacity).sum())
    return Rows(
        useful=useful,
        padded=counts.size * capacity - useful,
        dropped=setting.rows - useful,
    )


@functools.lru_cache(maxsize=1)
def weights(
    num_experts: int, width: int, hidden: int, dtype: str
) -> dict[str, Array]:
    """Returns the matrices of E experts, shared by all that use them.

    Args:
      num_experts: E.
      width: D.
      hidden: F.
      dtype: their dtype.

    Returns:
      `gate` and `up` [E, D, F], `down` [E, F, D].
    """
    shapes = {
        'gate': (num_experts, width, hidden),
        'up': (num_experts, width, hidden),
        'down': (num_experts, hidden, width),
    }

    def draw(key, shape):
        # One expert after another, whose bits take little memory.
        normal = lambda key: jax.random.normal(key, shape[1:], dtype)
        keys = jax.random.split(key, shape[0])
        return jax.lax.map(lambda k: shape[1] ** -0.5 * normal(k), keys)

    drawn = jax.jit(draw, static_argnums=1)
    return {
        name: drawn(jax.random.key(i), shape)
        for i, (name, shape) in enumerate(shapes.items())
    }


class Problem:
    """The arrays of a setting, made when they are asked for.

    Args:
      setting: the setting.
      repeats: how often a call goes through the layer.
    """

    def __init__(self, setting: Setting, repeats: int = 1):
        self.setting, self.repeats = setting, repeats

    @functools.cached_property
    def x(self) -> Float[Array, 'T D']:
        """Returns the tokens."""
        return jnp.asarray(self._inputs[0], self.setting.dtype)

    @functools.cached_property
    def params(self) -> dict[str, Any]:
        """Returns the parameters of the mixture: `router` and `experts`."""
        s = self.setting
        experts = weights(s.num_experts, s.width, s.hidden, s.dtype)
        return {'router': jnp.asarray(self._inputs[1]), 'experts': experts}

    @functools.cached_property
    def dense_params(self) -> dict[str, Array]:
        """Returns those of a dense layer of K*F hidden units, a copy."""
        s = self.setting
        dense = weights.__wrapped__(1, s.width, s.k * s.hidden, s.dtype)
        return {name: w[0] for name, w in dense.items()}

    @functools.cached_property
    def _inputs(self):
        return inputs(self.setting)

    def shapes(self) -> tuple[Any, Any, Any]:
        """Returns shapes of `params`, `dense_params` and `x`, without them."""
        s = self.setting
        experts = lambda e, f: jax.eval_shape(
            lambda: weights.__wrapped__(e, s.width, f, s.dtype)
        )
        router = jax.ShapeDtypeStruct((s.width, s.num_experts), jnp.float32)
        dense = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype),
            experts(1, s.k * s.hidden),
        )
        x = jax.ShapeDtypeStruct((s.tokens, s.width), s.dtype)
        params = {'router': router, 'experts': experts(s.num_experts, s.hidden)}
        return params, dense, x

"""Sub-network routing: learned, gated routes between parallel networks.

B examples, N inputs (parallel networks below), M outputs (above), D and F
their widths. Route (j, i) is from input i to output j.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from moe.experts.network import Initializer, initializer, regularization
from moe.parameters import parameter
from moe.types import Aux


def hard_concrete(
    log_alpha: Float[Array, '*R'],
    uniform: Float[Array, '*R'] | None = None,
    *,
    beta: float = 0.5,
    gamma: float = -0.1,
    zeta: float = 1.1,
    straight_through: bool = False,
) -> Float[Array, '*R']:
    """Draws gates in [0, 1] that are often exactly 0 or 1.

    `z = clip(s * (zeta - gamma) + gamma, 0, 1)` with
    `s = sigmoid((log(u) - log(1 - u) + log_alpha) / beta)` for a uniform draw
    u, and `s = sigmoid(log_alpha)` without one.
    Source: arXiv 1712.01312, eq. 10-13.

    Args:
      log_alpha: log-odds of each gate, float32.
      uniform: draws in [0, 1]; 0 and 1 are read as the nearest number whose
        log-odds are finite. None is the deterministic gate of evaluation.
      beta: temperature of the draw, positive.
      gamma: lower end of the stretched interval, below 0.
      zeta: upper end, above 1.
      straight_through: whether the gradient ignores the clipping, and so
        reaches closed and wide open gates too.

    Returns:
      The gates, float32.

    >>> hard_concrete(jnp.array([-9.0, 0.0, 9.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    if uniform is None:
        s = jax.nn.sigmoid(log_alpha)
    else:
        least = jnp.finfo(jnp.float32).eps
        u = jnp.clip(uniform.astype(jnp.float32), least, 1.0 - least)
        noise = jnp.log(u) - jnp.log1p(-u)
        s = jax.nn.sigmoid((noise + log_alpha) / beta)
    stretched = s * (zeta - gamma) + gamma
    z = jnp.clip(stretched, 0.0, 1.0)
    if straight_through:
        # Adds 0, with a gradient.
        hard, soft = jax.lax.stop_gradient((z, stretched))
        z = hard + (stretched - soft)
    return z


def expected_open(
    log_alpha: Float[Array, '*R'],
    *,
    beta: float = 0.5,
    gamma: float = -0.1,
    zeta: float = 1.1,
) -> Float[Array, '*R']:
    """Returns the probability that a drawn gate is not 0, for the L0 loss.

    `P(z > 0) = sigmoid(log_alpha - beta * log(-gamma / zeta))`.
    Source: arXiv 1712.01312, eq. 12.

    Args:
      log_alpha: log-odds of each gate, float32.
      beta: temperature of the draw; see `hard_concrete`.
      gamma: lower end of the stretched interval.
      zeta: upper end of the stretched interval.

    Returns:
      The probabilities, float32.

    >>> round(float(expected_open(jnp.zeros(()))), 6)
    0.768338
    """
    return jax.nn.sigmoid(log_alpha - beta * math.log(-gamma / zeta))


def snr_outputs(
    x: Float[Array, 'B N D'],
    z: Float[Array, 'M N'],
    weight: Float[Array, 'M N D F'] | None = None,
) -> Float[Array, 'B M F']:
    """Sums the routes of each output: `y_j = sum_i z_ji * x_i W_ji`.

    One product `[B, N*D] x [N*D, M*F]` for all routes.

    Args:
      x: inputs, float.
      z: gates of the routes, float32.
      weight: matrices of the routes, float32; None is the identity, and the
        outputs are sums, without a product.

    Returns:
      The outputs, in the dtype of `x`.
    """
    if weight is None:
        return jnp.sum(z[..., None] * x[:, None], axis=2).astype(x.dtype)
    num_outputs, num_inputs, width, features = weight.shape
    matrix = (z[..., None, None] * weight).transpose(1, 2, 0, 3)
    matrix = matrix.reshape(num_inputs * width, num_outputs * features)
    y = x.reshape(len(x), num_inputs * width) @ matrix.astype(x.dtype)
    return y.reshape(len(x), num_outputs, features)


class SNR(nn.Module):
    """Routes with learned gates between two rows of parallel networks.

    `y_j = sum_i z_ji * x_i W_ji`, with z drawn once a call in training and
    deterministic in evaluation, see `hard_concrete`. The loss 'l0' closes
    routes that do not reduce the other losses.
    Source: Ma et al., AAAI 2019, Sub-Network Routing.

    Attributes:
      num_outputs: M, number of outputs.
      features: F, width of each output.
      kind: 'trans' learns W_ji; 'aver' has the identity, and D = F.
      beta: temperature of the draw; see `hard_concrete`.
      gamma: lower end of the stretched interval.
      zeta: upper end of the stretched interval.
      straight_through: whether the gradient ignores the clipping.
      initializer: initializer of one matrix W_ji [D, F], whose fan is its own:
        a function (key, shape), or a name such as 'glorot_uniform'.
      l1: coefficient of the absolute weights in the loss 'regularization'.
      l2: coefficient of the squared weights in it.
    """

    num_outputs: int
    features: int
    kind: Literal['trans', 'aver'] = 'trans'
    beta: float = 0.5
    gamma: float = -0.1
    zeta: float = 1.1
    straight_through: bool = False
    initializer: Initializer = 'glorot_uniform'
    l1: float = 0.0
    l2: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'B N D'] | Sequence[Float[Array, 'B D']],
        *,
        train: bool = False,
        mask: Bool[Array, 'B'] | None = None,
        uniform: Float[Array, 'M N'] | None = None,
    ) -> tuple[Float[Array, 'B M F'], Aux]:
        """Draws the gates, and sums the routes.

        Args:
          x: inputs, float, as one array or one of each network.
          train: whether the gates are drawn, from the 'router' rng stream.
          mask: True for valid rows; padding gets output 0.
          uniform: draws to use instead, in training or evaluation.

        Returns:
          The outputs; losses 'l0', the expected number of open routes, and
          'regularization' if it has a coefficient; statistics 'open_routes',
          the same number, and 'gate' z [M, N].

        Raises:
          ValueError: if the inputs differ in shape, D is not F in 'aver',
            the gates' interval does not reach beyond [0, 1], beta is not
            positive, or there is no key in training.
        """
        if not isinstance(x, jax.Array | np.ndarray):
            x = jnp.stack(x, axis=1)
        if mask is not None:
            x = jnp.where(mask[:, None, None], x, 0)
        if not self.gamma < 0 < 1 < self.zeta:
            raise ValueError(
                f'SNR: gamma = {self.gamma} must be below 0 and '
                f'zeta = {self.zeta} above 1'
            )
        if not self.beta > 0:
            raise ValueError(f'SNR: beta = {self.beta} must be above 0')
        _, num_inputs, width = x.shape
        routes = (self.num_outputs, num_inputs)
        zeros = nn.initializers.zeros_init()
        log_alpha = parameter(self, 'log_alpha', zeros, routes, decay=False)
        weight = self._weight(routes, width)
        if train and uniform is None:
            if not self.has_rng('router'):
                raise ValueError("SNR: needs an rng named 'router'")
            uniform = jax.random.uniform(self.make_rng('router'), routes)
        interval = {'beta': self.beta, 'gamma': self.gamma, 'zeta': self.zeta}
        z = hard_concrete(
            log_alpha,
            uniform,
            straight_through=self.straight_through,
            **interval,
        )
        l0 = jnp.sum(expected_open(log_alpha, **interval))
        losses = {'l0': l0}
        if weight is not None and (self.l1 or self.l2):
            losses['regularization'] = regularization(
                {'kernel': weight}, {'l1': self.l1, 'l2': self.l2}
            )
        stats = {'open_routes': l0, 'gate': z}
        return snr_outputs(x, z, weight), Aux(losses, stats)

    def _weight(self, routes, width):
        """Makes the matrices, each drawn on its own; None for the identity."""
        if {'trans': False, 'aver': True}[self.kind]:
            if width != self.features:
                raise ValueError(
                    f"SNR: 'aver' adds inputs of width {width} to outputs of "
                    f'features = {self.features}'
                )
            return None
        shape = (width, self.features)

        def init(key, whole, _):
            keys = jax.random.split(key, math.prod(routes))
            make = initializer(self.initializer)
            one = lambda key: make(key, shape)
            return jax.vmap(one)(keys).reshape(whole)

        return parameter(self, 'weight', init, (*routes, *shape), decay=True)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Pruned:
    """The open routes of each output, without the closed ones.

    Attributes:
      z: gates of an output's n open routes, M times [1, n] float32.
      weight: their matrices, M times [1, n, D, F] float32 or None.
      inputs: which inputs they are from, M times n numbers.
    """

    z: tuple[Any, ...]
    weight: tuple[Any, ...]
    inputs: tuple[tuple[int, ...], ...] = dataclasses.field(
        metadata={'static': True}
    )

    def __call__(self, x: Float[Array, 'B N D']) -> Float[Array, 'B M F']:
        """Returns what `SNR` does in evaluation, at the open routes' cost.

        Args:
          x: inputs, float.
        """
        outputs = [
            snr_outputs(x[:, np.array(inputs, int)], z, weight)
            for inputs, z, weight in zip(
                self.inputs, self.z, self.weight, strict=True
            )
        ]
        return jnp.concatenate(outputs, axis=1)


def pruned(
    params: Mapping[str, Any], *, gamma: float = -0.1, zeta: float = 1.1
) -> Pruned:
    """Drops the routes that evaluation closes, `z = 0`.

    Args:
      params: parameters of an `SNR`; numbers, as which routes are open is
        static.
      gamma: lower end of the stretched interval.
      zeta: upper end of the stretched interval.

    Returns:
      The open routes, to be called with the inputs.
    """
    z = hard_concrete(params['log_alpha'], gamma=gamma, zeta=zeta)
    weight = params.get('weight')
    routes = [(j, np.flatnonzero(row)) for j, row in enumerate(np.array(z))]
    return Pruned(
        z=tuple(z[j, i][None] for j, i in routes),
        weight=tuple(
            None if weight is None else weight[j, i][None] for j, i in routes
        ),
        inputs=tuple(tuple(i.tolist()) for _, i in routes),
    )


def shared_routes(z: Float[Array, 'M N']) -> Float[Array, 'M M']:
    """Returns the share of each output's open routes that another also has.

    `S[j, k] = |open_j and open_k| / |open_j|`, with `open_j` the inputs i of
    `z_ji > 0`. Not symmetric: an output with few routes may share them all
    with one that has many. 1 on the diagonal; a row of 0 for an output that
    has no open route.

    Args:
      z: gates, float; those of evaluation to compare what was learned.

    Returns:
      The shares, float32.

    >>> shared_routes(jnp.array([[1.0, 0.5, 0.0], [0.0, 1.0, 0.0]])).tolist()
    [[1.0, 0.5], [1.0, 1.0]]
    """
    is_open = (z > 0).astype(jnp.float32)
    count = jnp.sum(is_open, axis=1, keepdims=True)
    return is_open @ is_open.T / jnp.maximum(count, 1.0)

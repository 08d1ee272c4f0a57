"""Batch normalisation, and its renormalised form.

B examples; each of the other entries of an example is normalised on its own.
"""

import dataclasses
import math
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from moe.parameters import parameter

# A number, or a function of the number of updates so far, e.g. of optax.
Clip = float | Callable[[Int[Array, '']], Float[Array, '']]


@dataclasses.dataclass(frozen=True)
class Renorm:
    """Limits on the correction of a batch's statistics by the running ones.

    The paper starts with plain batch normalisation and then widens the limits:
    `rmax=optax.linear_schedule(1.0, 3.0, 35_000, 5_000)` and
    `dmax=optax.linear_schedule(0.0, 5.0, 20_000, 5_000)`.
    Source: arXiv 1702.03275.

    Attributes:
      momentum: momentum of the running mean and deviation of the correction.
      rmax: greatest correction r of the scale; the default clips nothing.
      rmin: least correction r of the scale; None is `1 / rmax`.
      dmax: greatest size of the correction d of the mean.
    """

    momentum: float = 0.99
    rmax: Clip = math.inf
    rmin: Clip | None = None
    dmax: Clip = math.inf

    def clips(
        self, updates: Int[Array, '']
    ) -> tuple[Float[Array, ''], Float[Array, ''], Float[Array, '']]:
        """Returns (rmin, rmax, dmax) after a number of updates.

        Args:
          updates: number of updates so far, int32.
        """
        at = lambda clip: jnp.asarray(
            clip(updates) if callable(clip) else clip, jnp.float32
        )
        rmax = at(self.rmax)
        rmin = 1 / rmax if self.rmin is None else at(self.rmin)
        return rmin, rmax, at(self.dmax)


class BatchNorm(nn.Module):
    """Normalises by the batch in training, by running averages afterwards.

    `y = (x - mu) / sqrt(var + epsilon) * gamma + beta`, with the biased
    variance of the valid examples, in two passes. With `renorm` the training
    output is `((x - mu) / sd * r + d) * gamma + beta`, `sd = sqrt(var +
    epsilon)`, `r = clip(sd / s, rmin, rmax)`, `d = clip((mu - m) / s, -dmax,
    dmax)`; m and s, the running mean and deviation before this step, and r and
    d carry no gradient. Unclipped, this is `(x - m) / s`.

    The collection 'batch_stats' holds the averages, which move when `train`
    and the collection is mutable: `mean` and `variance`, or with `renorm`
    `mean` and `sd`, of which evaluation takes `max(sd^2 - epsilon, 0)` as the
    variance, `renorm_mean`, `renorm_sd`, and the number of `updates`.
    Sources: arXiv 1502.03167, arXiv 1702.03275.

    Attributes:
      momentum: momentum of the running averages.
      epsilon: what is added to the variance.
      renorm: None for plain batch normalisation.
    """

    momentum: float = 0.99
    epsilon: float = 1e-3
    renorm: Renorm | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'B *F'],
        *,
        train: bool = False,
        mask: Bool[Array, 'B'] | None = None,
    ) -> Float[Array, 'B *F']:
        """Normalises over the examples.

        Args:
          x: float32.
          train: whether the batch's own statistics are used, and averaged.
          mask: True for the examples that count in them; None if all do.

        Returns:
          The normalised examples.
        """
        shape = x.shape[1:]
        init = nn.initializers
        gamma = parameter(self, 'gamma', init.ones_init(), shape, decay=False)
        beta = parameter(self, 'beta', init.zeros_init(), shape, decay=False)
        own = lambda name, value: self.variable('batch_stats', name, value)
        zeros, ones = lambda: jnp.zeros(shape), lambda: jnp.ones(shape)
        mean = own('mean', zeros)
        if self.renorm is None:
            variance = own('variance', ones)
        else:
            deviation = own('sd', ones)
            renorm_mean = own('renorm_mean', zeros)
            renorm_sd = own('renorm_sd', ones)
            updates = own('updates', lambda: jnp.zeros((), jnp.int32))
        moves = (
            train
            and self.is_mutable_collection('batch_stats')
            and not self.is_initializing()
        )

        def move(average, value, momentum):
            if moves:
                average.value = (
                    momentum * average.value + (1 - momentum) * value
                )

        if not train:
            if self.renorm is None:
                var = variance.value
            else:
                var = jnp.maximum(deviation.value**2 - self.epsilon, 0.0)
            scale = lax.rsqrt(var + self.epsilon)
            return (x - mean.value) * scale * gamma + beta
        mu, var = _moments(x, mask)
        sd = jnp.sqrt(var + self.epsilon)
        y = (x - mu) / sd
        move(mean, mu, self.momentum)
        if self.renorm is None:
            move(variance, var, self.momentum)
            return y * gamma + beta
        rmin, rmax, dmax = self.renorm.clips(updates.value)
        running = jnp.maximum(renorm_sd.value, math.sqrt(self.epsilon))
        r = jnp.clip(sd / running, rmin, rmax)
        d = jnp.clip((mu - renorm_mean.value) / running, -dmax, dmax)
        move(deviation, sd, self.momentum)
        move(renorm_mean, mu, self.renorm.momentum)
        move(renorm_sd, sd, self.renorm.momentum)
        if moves:
            updates.value += 1
        y = y * lax.stop_gradient(r) + lax.stop_gradient(d)
        return y * gamma + beta


def _moments(x, mask):
    """Returns mean and biased variance over valid examples, in two passes."""
    if mask is None:
        mask = jnp.ones(x.shape[0], bool)
    valid = mask.reshape(-1, *[1] * (x.ndim - 1))
    count = jnp.maximum(jnp.sum(valid), 1)
    mean = jnp.sum(jnp.where(valid, x, 0.0), axis=0) / count
    squares = jnp.where(valid, jnp.square(x - mean), 0.0)
    return mean, jnp.sum(squares, axis=0) / count

"""Feed-forward networks of any depth, one or N of them in parallel.

B examples, N networks, D input width, H output width.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from moe.parameters import parameter

ActivationName = Literal['gelu', 'linear', 'relu', 'sigmoid', 'silu', 'tanh']
InitializerName = Literal[
    'glorot_normal',
    'glorot_uniform',
    'he_normal',
    'he_uniform',
    'lecun_normal',
    'lecun_uniform',
    'zeros',
]
WeightNorm = Literal['none', 'learned', 'fixed', 'unit']
# A function, or one of the names above.
Pointwise = str | Callable[[Array], Array]
Initializer = str | Callable[..., Array]
# A function of one network's parameter, or the coefficients 'l1' and 'l2' of
# its absolute and squared weights.
Penalty = Callable[[Array], Array] | Mapping[str, float] | None

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    name: getattr(nn, name)
    for name in get_args(ActivationName)
    if name != 'linear'
} | {'linear': lambda x: x}
_INITIALIZERS: dict[str, Callable[..., Array]] = {
    name: getattr(nn.initializers, name)()
    for name in get_args(InitializerName)
    if name != 'zeros'
} | {'zeros': nn.initializers.zeros_init()}


class Network(nn.Module):
    """A feed-forward network, or N of them with parameters of their own.

    `x <- act_i(BN_i(x W_i + b_i))` for each layer i, after a `BN` of the
    input; the last layer has no BN. All N are computed by one product a layer,
    and each is initialised on its own, with its own fan.

    Attributes:
      widths: widths of the layers; the last one is H.
      num: N, number of networks; None is one network.
      activation: activation of all layers but the last, which is linear; or a
        sequence, one for each layer. A function, or 'gelu', 'linear', 'relu',
        'sigmoid', 'silu' or 'tanh'.
      kernel_init: initializer of the kernels, or one for each layer: a
        function (key, shape, dtype), or a name such as 'glorot_uniform'.
      use_bias: whether each layer has a bias.
      weight_norm: see `Dense`.
      batch_norm: makes the normalisations from their names, e.g. `BatchNorm`
        or a partial of it; None for none. Each network has its own.
    """

    widths: Sequence[int]
    num: int | None = None
    activation: Pointwise | Sequence[Pointwise] = 'relu'
    kernel_init: Initializer | Sequence[Initializer] = 'glorot_uniform'
    use_bias: bool = True
    weight_norm: WeightNorm = 'none'
    batch_norm: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'B *M D'],
        *,
        train: bool = False,
        mask: Bool[Array, 'B'] | None = None,
    ) -> Float[Array, 'B *N H']:
        """Applies the network, or each of the N.

        Args:
          x: [B, D], to each network the same; or, with `num`, [B, N, D].
          train: whether this is training, for batch normalisation.
          mask: True for the examples that count in its statistics; None if
            all do.

        Returns:
          The outputs, [B, H] or [B, N, H].

        Raises:
          ValueError: for an unknown name, or if there are not as many
            activations or initializers as layers.
        """
        last = len(self.widths) - 1
        activations = self._of_layers('activation', _ACTIVATIONS)
        if _is_one(self.activation):
            activations[last] = _ACTIVATIONS['linear']
        initializers = self._of_layers('kernel_init', _INITIALIZERS)
        if self.batch_norm and self.num is not None and x.ndim == 2:
            # The normalised input is each network's own.
            shape = (x.shape[0], self.num, x.shape[1])
            x = jnp.broadcast_to(x[:, None], shape)
        x = self._normalized('batch_norm_in', x, train, mask)
        for i, width in enumerate(self.widths):
            x = Dense(
                width,
                self.num,
                initializers[i],
                self.use_bias,
                self.weight_norm,
                name=f'dense_{i}',
            )(x)
            if i < last:
                x = self._normalized(f'batch_norm_{i}', x, train, mask)
            x = activations[i](x)
        return x

    def _normalized(self, name, x, train, mask):
        if self.batch_norm is None:
            return x
        return self.batch_norm(name=name)(x, train=train, mask=mask)

    def _of_layers(self, field: str, table: Mapping) -> list[Callable]:
        """Returns the function of a field for each layer."""
        given = getattr(self, field)
        number = len(self.widths)
        if _is_one(given):
            given = [given] * number
        if len(given) != number:
            raise ValueError(
                f'Network: {len(given)} of {field} for {number} layers'
            )
        return [_by_name(f'Network: {field}', v, table) for v in given]


class Networks(nn.Module):
    """N networks of different shapes, side by side, called as one `Network`.

    Each layer of each network is a product of its own; networks of one shape
    are faster as one `Network` with `num`.

    Attributes:
      networks: N modules [B, D] -> [B, H], of one H, which are called with
        `train` and `mask`.
    """

    networks: Sequence[nn.Module]

    def __call__(
        self,
        x: Float[Array, 'B *M D'],
        *,
        train: bool = False,
        mask: Bool[Array, 'B'] | None = None,
    ) -> Float[Array, 'B N H']:
        """Applies each network; see `side_by_side`."""
        return side_by_side(self.networks, x, train=train, mask=mask)


def side_by_side(
    networks: Sequence[Callable[..., Array]],
    x: Float[Array, 'B *M D'],
    *,
    train: bool = False,
    mask: Bool[Array, 'B'] | None = None,
) -> Float[Array, 'B N H']:
    """Applies N networks of any shapes to the same examples.

    Args:
      networks: [B, D] -> [B, H], called with `train` and `mask`.
      x: the inputs of all networks [B, D], or each one's own [B, N, D].
      train: whether this is training, for the networks.
      mask: True for valid examples, for the networks.

    Returns:
      The outputs, in the order of the networks.

    Raises:
      ValueError: if the outputs are not all of one width H.
    """
    own = lambda i: x if x.ndim == 2 else x[:, i]
    outputs = [
        network(own(i), train=train, mask=mask)
        for i, network in enumerate(networks)
    ]
    widths = [y.shape[-1] for y in outputs]
    if len(set(widths)) > 1:
        raise ValueError(f'experts of widths {widths}, which must be one')
    return jnp.stack(outputs, axis=1)


def initializer(given: Initializer) -> Callable[..., Array]:
    """Returns an initialiser by its name; a function is returned as it is.

    Args:
      given: such as 'glorot_uniform', or a function (key, shape, dtype).

    Raises:
      ValueError: for a name that is unknown.
    """
    return _by_name('initializer', given, _INITIALIZERS)


def _by_name(what: str, given: Any, table: Mapping[str, Callable]) -> Callable:
    if not isinstance(given, str):
        return given
    if given not in table:
        raise ValueError(f'{what} {given!r} is not in {", ".join(table)}')
    return table[given]


def _is_one(given: Any) -> bool:
    """Whether a field has one value for all layers."""
    return isinstance(given, str) or callable(given)


class Dense(nn.Module):
    """One layer of one network or of N: `x W + b`.

    With weight norm `W = V * rsqrt(max(sum_i V_i^2, 1e-6)) * g`, column by
    column; at first g is the norm of V's columns, so that W is V.
    Source: arXiv 1602.07868.

    Attributes:
      width: H, the output width.
      num: N, number of networks; None is one network.
      kernel_init: initializer of one network's kernel [D, H].
      use_bias: whether there is a bias, zero at first.
      weight_norm: 'none'; or what g is: 'learned'; 'fixed' at the columns'
        first norms, which are kept in the collection 'constants'; or 1, so
        that all columns are of 'unit' length.
    """

    width: int
    num: int | None = None
    kernel_init: Callable[..., Array] = _INITIALIZERS['glorot_uniform']
    use_bias: bool = True
    weight_norm: WeightNorm = 'none'

    @nn.compact
    def __call__(self, x: Float[Array, 'B *M D']) -> Float[Array, 'B *N H']:
        """Applies the layer of every network.

        Args:
          x: [B, D], to each network the same; or, with `num`, [B, N, D].

        Returns:
          Outputs [B, H], or [B, N, H].
        """
        lead = () if self.num is None else (self.num,)
        shape = (*lead, x.shape[-1], self.width)
        kernel = parameter(self, 'kernel', self._init, shape, decay=True)
        y = product(x, self._scaled(kernel))
        if self.use_bias:
            zeros = nn.initializers.zeros_init()
            shape = (*lead, self.width)
            y = y + parameter(self, 'bias', zeros, shape, decay=False)
        return y

    def _init(self, key, shape, dtype):
        if self.num is None:
            return self.kernel_init(key, shape, dtype)
        one = lambda key: self.kernel_init(key, shape[1:], dtype)
        return jax.vmap(one)(jax.random.split(key, self.num))

    def _scaled(self, kernel):
        """Returns W, made from V by weight normalisation."""
        if self.weight_norm == 'none':
            return kernel
        squares = jnp.sum(jnp.square(kernel), axis=-2)
        norm = lambda *_: jnp.sqrt(squares)
        unit = kernel * lax.rsqrt(jnp.maximum(squares, 1e-6))[..., None, :]
        if self.weight_norm == 'learned':
            scale = parameter(self, 'norm', norm, squares.shape, decay=False)
            return unit * scale[..., None, :]
        if self.weight_norm == 'unit':
            return unit
        return (
            unit * self.variable('constants', 'norm', norm).value[..., None, :]
        )


def product(
    x: Float[Array, 'B *M D'], kernel: Float[Array, '*N D H']
) -> Float[Array, 'B *N H']:
    """`y[b, n] = x[b, n] W[n]` for all networks at once.

    Args:
      x: [B, D], or each network's own [B, N, D].
      kernel: [D, H] or [N, D, H].

    Returns:
      The products, [B, H] or [B, N, H].
    """
    if kernel.ndim == 2:
        return x @ kernel
    num, width, features = kernel.shape
    if x.ndim == 2:  # one product [B, D] x [D, N*H]
        wide = jnp.swapaxes(kernel, 0, 1).reshape(width, num * features)
        return (x @ wide).reshape(x.shape[0], num, features)
    # A fifth to a third faster on CPU than einsum, which leaves the networks
    # between the two sides of each product.
    return jnp.swapaxes(jnp.swapaxes(x, 0, 1) @ kernel, 0, 1)


def regularization(
    params: Any, kernel: Penalty = None, bias: Penalty = None
) -> Float[Array, '']:
    """Sums the penalties of all networks' kernels and biases.

    Args:
      params: tree of parameters of `Network`s.
      kernel: penalty of a kernel [D, H] before weight norm: a function, or
        `{'l1': a, 'l2': b}` for `a * sum |w| + b * sum w^2`; None is 0.
      bias: penalty of a bias [H], of the same kinds.

    Returns:
      The sum, a float32 scalar.

    >>> params = {'kernel': jnp.array([[1.0, -2.0]]), 'bias': jnp.ones(2)}
    >>> float(regularization(params, {'l1': 1.0, 'l2': 0.1}))
    3.5
    """
    # Parameter -> its penalty and its axes in one network.
    table = {'kernel': (kernel, 2), 'bias': (bias, 1)}
    total = jnp.zeros((), jnp.float32)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        penalty, axes = table.get(path[-1].key, (None, 0))
        if penalty is None:
            continue
        if isinstance(penalty, Mapping):
            factors = dict(penalty)
            penalty = lambda w, factors=factors: _l1_l2(w, **factors)
        one = jax.vmap(penalty) if leaf.ndim > axes else penalty
        total += jnp.sum(one(leaf))
    return total


def _l1_l2(w, l1=0.0, l2=0.0):
    total = jnp.zeros((), jnp.float32)
    if l1:
        total += l1 * jnp.sum(jnp.abs(w))
    if l2:
        total += l2 * jnp.sum(jnp.square(w))
    return total

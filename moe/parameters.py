"""Parameters: each is declared once, by the module that makes it.

    kernel = parameter(
        self, 'up', init, (E, D, F),
        axes=('expert', 'embed', 'hidden'), decay=True, matrix=(1, 1),
    )

is `self.param('up', init, (E, D, F))`, with what sharding, optimizers and
parameter counts need to know. The tree of parameters is the one that
linen makes; `declared` gives the declarations as a tree of the same structure.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Path = tuple[str, ...]
Matrix = tuple[int, int]

# The parts of a model, which have metrics and learning rates of their own, each
# with the beginnings of the names in a parameter's path that make it one of
# them; the first part that has one counts.
_NAMES = {
    'attention': ('attention',),
    'experts': ('experts', 'shared'),
    'dense': ('mlp',),
    'router': ('router', 'gate'),
    'head': ('head', 'towers'),
    'embedding': ('embedding', 'position_embedding', 'patches'),
}
PARTS = (
    'embedding',
    'attention',
    'router',
    'experts',
    'dense',
    'head',
    'other',
)


@dataclasses.dataclass(frozen=True)
class Parameter:
    """What is known of a parameter beside its values.

    Attributes:
      shape: shape of the whole array, axes of lifted modules included.
      axes: name of each axis, such as 'expert' or 'embed'; None for one that
        is never split over devices.
      decay: whether weight decay acts on it.
      matrix: (number of input axes, number of output axes) of a matrix that
        is orthogonalised as a whole; these are the last axes, and any before
        them stack matrices. None for anything else.
      multiplied: whether a token is multiplied with it; a table of embeddings
        is only looked up.
      grid: whether its rows are the positions of a square grid, maybe after one
        that is not, so that for another number of them it is interpolated.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    decay: bool
    matrix: Matrix | None = None
    multiplied: bool = True
    grid: bool = False

    @property
    def size(self) -> int:
        """Returns the number of elements."""
        return math.prod(self.shape)


def parameter(
    module: nn.Module,
    name: str,
    init: Callable[..., Array],
    shape: tuple[int, ...],
    *,
    axes: tuple[str | None, ...] | None = None,
    decay: bool,
    matrix: Matrix | None = None,
    multiplied: bool = True,
    grid: bool = False,
) -> Float[Array, '...']:
    """Makes a float32 parameter of a linen module, and declares it.

    Args:
      module: the linen module, inside its `__call__` or `setup`.
      name: name of the parameter.
      init: initializer, a function of (key, shape, dtype).
      shape: shape of the parameter.
      axes: name of each axis, see `Parameter`; None splits none.
      decay: whether weight decay acts on it: true of matrices, not of scales,
        biases and gates, which decay would flatten.
      matrix: see `Parameter`.
      multiplied: see `Parameter`.
      grid: see `Parameter`.

    Returns:
      The parameter.
    """
    recording = _RECORDING.value
    if recording is not None and module.is_initializing():
        axes = (None,) * len(shape) if axes is None else axes
        made = Parameter(shape, axes, decay, matrix, multiplied, grid)
        recording.declared[(*_path(module), name)] = made
    return module.param(name, init, shape, jnp.float32)


def declare_all(
    module: nn.Module,
    *,
    first_axis: str | None = None,
    decay: bool | None = None,
) -> None:
    """Declares something of all parameters of a module, whatever it is.

    A mixture calls this with its experts and `first_axis='expert'` after it
    has run them: their parameters are then split over the devices by their
    first axis. What a parameter's own module declared stands.

    Args:
      module: a submodule of the one that calls.
      first_axis: name of the first axis of each parameter.
      decay: whether weight decay acts on them.
    """
    recording = _RECORDING.value
    if recording is not None and module.is_initializing():
        for path, shape in _shapes(module).items():
            if first_axis is not None:
                recording.first_axis[path] = (len(shape), first_axis)
            if decay is not None:
                recording.decay[path] = decay


def declared(init: Callable[..., Any], *args: Any) -> Any:
    """Returns the declarations of all parameters that an initializer makes.

    Nothing is computed: `init` is traced. A parameter that its module made by
    `self.param` alone is decayed if it had two or more axes there, is no
    matrix to orthogonalise, and has no named axis but what `declare_all` says.

    Args:
      init: returns variables, such as `module.init`.
      *args: arguments of `init`, arrays or shapes.

    Returns:
      A tree of `Parameter` in the structure of `init(*args)['params']`.
    """
    recording = _Recording({}, {}, {}, {})
    with _RECORDING(recording), nn.intercept_methods(recording.intercept):
        shapes = jax.eval_shape(lambda *args: init(*args), *args)

    def describe(keys, leaf):
        return recording.of(tuple(key.key for key in keys), leaf.shape)

    return jax.tree_util.tree_map_with_path(describe, shapes['params'])


def parts(parameters: Any) -> Any:
    """Returns the part of the model that each parameter is of.

    Args:
      parameters: the declared parameters, a tree of `Parameter`.

    Returns:
      A tree of names among `PARTS`. Scales of norms and whatever has no part of
      its own are 'other'; feed-forwards without a router are 'dense'.
    """

    def part(keys, parameter):
        path = [key.key for key in keys]
        for name, begins in _NAMES.items():
            if name == 'experts' and 'expert' in parameter.axes:
                return name
            if any(_is_of(step, begins) for step in path):
                return name
        return 'other'

    return jax.tree_util.tree_map_with_path(part, parameters)


def _is_of(step: str, begins: tuple[str, ...]) -> bool:
    return step.startswith(begins) and not step.endswith('norm')


@dataclasses.dataclass(eq=False)
class _Recording:
    """The declarations of modules that are initialized, by parameter path.

    Attributes:
      declared: declarations of `parameter`, with the shape its module saw.
      first_axis: declarations of `declare_all`: the number of axes that the
        parameter had there, and the name of the first of them.
      decay: declarations of `declare_all`.
      seen: shape of every parameter in the module that made it.
    """

    declared: dict[Path, Parameter]
    first_axis: dict[Path, tuple[int, str]]
    decay: dict[Path, bool]
    seen: dict[Path, tuple[int, ...]]

    def intercept(self, call, args, kwargs, context):
        """Notes the shapes of a module's parameters after a call of it.

        Inside a lifted module they are without the axes that lifting adds.
        """
        result = call(*args, **kwargs)
        if context.module.is_initializing():
            for path, shape in _shapes(context.module).items():
                self.seen.setdefault(path, shape)
        return result

    def of(self, path: Path, shape: tuple[int, ...]) -> Parameter:
        """Returns the declaration for the whole array."""
        own = self.seen.get(path, shape)
        made = self.declared.get(path)
        if made is None:
            decay = self.decay.get(path, len(own) >= 2)
            made = Parameter(own, (None,) * len(own), decay)
        # Lifting adds axes in front.
        axes = [*(len(shape) - len(made.axes)) * [None], *made.axes]
        count, name = self.first_axis.get(path, (0, ''))
        if count and axes[-count] is None:
            axes[-count] = name
        return dataclasses.replace(made, shape=shape, axes=tuple(axes))


# What is traced under another recording is traced again, a module below
# `nn.jit` too.
_RECORDING = jax.make_user_context(None)


def _path(module: nn.Module) -> Path:
    assert module.scope is not None
    return tuple(module.scope.path)


def _shapes(module: nn.Module) -> dict[Path, tuple[int, ...]]:
    """The shape of every parameter of a module, by its whole path."""
    leaves = jax.tree_util.tree_leaves_with_path(
        module.variables.get('params', {})
    )
    return {
        (*_path(module), *(key.key for key in keys)): tuple(leaf.shape)
        for keys, leaf in leaves
    }

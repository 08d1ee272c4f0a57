"""Derivatives by central differences, in float64."""

import numpy as np


def along_each(function, tree, directions, step=1e-6):
    """The derivative of a scalar function along a direction of each array.

    Args:
      function: of a tree of float64 arrays, nested dictionaries.
      tree: where it is taken.
      directions: a tree of the same structure.
      step: half the difference of the arguments.

    Returns:
      A tree of numbers: one array moves, the others stay.
    """

    def inside(tree, directions, replaced):
        found = {}
        for name, value in tree.items():
            own = lambda v, name=name: replaced({**tree, name: v})
            if isinstance(value, dict):
                found[name] = inside(value, directions[name], own)
                continue
            move = step * directions[name]
            difference = function(own(value + move)) - function(
                own(value - move)
            )
            found[name] = difference / (2 * step)
        return found

    return inside(tree, directions, lambda tree: tree)


def products(tree, directions):
    """The same of gradients: `sum(gradient * direction)` of each array."""
    return {
        name: products(value, directions[name])
        if isinstance(value, dict)
        else np.sum(np.float64(value) * directions[name])
        for name, value in tree.items()
    }

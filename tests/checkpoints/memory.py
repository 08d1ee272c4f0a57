"""Runs in memory, for transforms of checkpoints."""

import types

import jax
import numpy as np

from moe.training.checksum import leaf_names
from moe.training.record import describe_leaves
from moe.workloads.lm.model import LM
from tests import tiny


def parameters(model):
    """Random parameters of a model, see `tests.tiny.parameters`."""
    return tiny.parameters(LM(model).init, np.zeros((1, 2), np.int32))


def source(config, params, state=None):
    """What a transform reads of a checkpoint, without files."""
    tree = {'params': params, 'model_state': state or {}}
    values = dict(zip(leaf_names(tree), jax.tree.leaves(tree), strict=True))
    return types.SimpleNamespace(
        config=config, leaves=describe_leaves(tree), read=values.__getitem__
    )


def made(make, first, collection='params'):
    """The tree that a transform makes, of trees of first values."""
    tree = {collection: first}
    leaves, structure = jax.tree.flatten(tree)
    found = [
        x if (y := make(name, x)) is None else y
        for name, x in zip(leaf_names(tree), leaves, strict=True)
    ]
    for old, new in zip(leaves, found, strict=True):
        assert old.shape == new.shape
    return jax.tree.unflatten(structure, found)[collection]


def double(tree):
    """The same tree in float64."""
    return jax.tree.map(np.float64, tree)

"""Tiny checkpoints of published families, and what transformers computes.

`tests/goldens/hf/FAMILY` has a checkpoint with random weights, written by
`save_pretrained` of transformers 5.24 (float32, eager attention), and
`golden.npz` with the same classes' results for `tokens` [2, 24]: `logits`,
`topk_index_N` and `topk_weight_N` of each mixture N, and the `greedy`
continuation [2, 8].
"""

import functools
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from moe.checkpoints.hf.read import check_tensors, read_leaves
from moe.checkpoints.hf.runs import plain_config
from moe.checkpoints.hf.tensors import Published, published
from moe.checkpoints.importing import Opened, open_published
from moe.training.checksum import leaf_names
from moe.workloads.registry import read_config

FOLDER = pathlib.Path(__file__).parents[2] / 'goldens' / 'hf'
FAMILIES = sorted(path.name for path in FOLDER.iterdir())


class Imported(NamedTuple):
    opened: Opened
    config: Any
    tensors: list[Published]
    leaves: dict[str, jax.Array]
    variables: dict[str, Any]


@functools.cache
def imported(name: str) -> Imported:
    """Imports a checkpoint onto one device, its variables alone."""
    return load(FOLDER / name)


def load(folder: pathlib.Path) -> Imported:
    """Imports a checkpoint onto one device, its variables alone."""
    opened = open_published(folder)
    config = read_config(plain_config(opened.model, '', 64))
    workload = config.make_workload()
    shapes = jax.eval_shape(lambda: workload.init(jax.random.key(0)))
    params = shapes.pop('params')
    tree = {'params': params, 'model_state': shapes}
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device)
    names = leaf_names(tree)
    like = dict(zip(names, map(place, jax.tree.leaves(tree)), strict=True))
    tensors = published(
        opened.family.rows, config.model, {n: x.shape for n, x in like.items()}
    )
    assert not check_tensors(tensors, opened.tensors)
    leaves = read_leaves(tensors, opened.tensors, like)
    found = jax.tree.unflatten(
        jax.tree.structure(tree), [leaves[name] for name in names]
    )
    variables = {'params': found['params'], **found['model_state']}
    return Imported(opened, config, tensors, leaves, variables)


@functools.cache
def golden(name: str) -> dict[str, np.ndarray]:
    """Returns what transformers computed."""
    with np.load(FOLDER / name / 'golden.npz') as found:
        return dict(found)

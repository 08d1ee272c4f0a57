"""Operations on experts in memory, and logits by the oracle."""

import numpy as np

from moe.checkpoints.surgery import Surgery
from tests import tiny
from tests.checkpoints import memory
from tests.reference import model as reference

TOKENS = np.array([[1, 7, 3, 250], [9, 9, 0, 31]])


def operated(config, params, operation):
    """The parameters that an operation makes of others."""
    source = memory.source(config, params)
    surgery = Surgery(source, operation)
    return nested({name: surgery.make(name) for name in source.leaves})


def nested(leaves):
    """The tree of leaves by their names, without the collection."""
    root = {}
    for name, value in leaves.items():
        _, *parents, last = name.split('/')
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return root


def logits(model, params):
    options = tiny.oracle_options(model)
    return reference.logits(TOKENS, memory.double(params), options)


def experts(params):
    return params['stack']['layers']['block_0']['moe']['experts']

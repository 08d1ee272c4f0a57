"""Routers tried out on draws."""

import functools

import numpy as np
import pytest

from moe.checkpoints.routers import check_tried, drawn_logits, gates_of
from moe.config import ConfigError
from moe.layers import MoEConfig
from moe.routing import ROUTERS
from tests import tiny
from tests.reference import routing as reference

LOGITS = tiny.numbers((7, 5), 0)


@pytest.mark.parametrize('renormalize', [True, False])
def test_gates(renormalize):
    router = functools.partial(ROUTERS['top_k'], k=2, renormalize=renormalize)
    want = np.zeros((7, 5))
    for row, logits in zip(want, LOGITS, strict=True):
        chosen, gates = reference.softmax_then_select(logits, 2, renormalize)
        row[chosen] = gates
    np.testing.assert_allclose(gates_of(router, LOGITS), want, rtol=1e-5)


def test_a_state():
    router = functools.partial(ROUTERS['sigmoid'], k=1)
    bias = np.float32([0, 0, 9, 0, 0])
    gates = gates_of(router, LOGITS, {'bias': bias})
    assert (gates > 0).argmax(axis=1).tolist() == [2] * 7


def test_drawn_logits():
    kernel = tiny.numbers((16, 4), 1)
    found = drawn_logits(kernel)
    # Of normal tokens: the variance of each is that of its column.
    want = np.square(kernel).sum(axis=0)
    np.testing.assert_allclose(found.var(axis=0), want, rtol=0.3)
    np.testing.assert_array_equal(found, drawn_logits(kernel))


@pytest.mark.parametrize('router', ['hash', 'soft'])
def test_routers_that_read_more_than_logits(router):
    config = MoEConfig(router=ROUTERS[router])
    with pytest.raises(ConfigError, match='chooses experts by its logits'):
        check_tried(config)

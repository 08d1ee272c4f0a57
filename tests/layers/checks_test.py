"""What a config's routers are asked."""

import pytest

from moe.config import ConfigError
from moe.layers import (
    experts_per_token,
)
from moe.layers.checks import routing_of
from moe.routing import ROUTERS
from tests.layers.config_test import build, config_of, two_level


@pytest.mark.parametrize(
    ('section', 'number'),
    [
        ({'name': 'top_k', 'k': 3}, 3),
        ({'name': 'top_k'}, 2),
        ({'name': 'top2'}, 2),
        ({'name': 'switch'}, 1),
        ({'name': 'expert_choice', 'capacity_factor': 1.5}, 1.5),
        ({'name': 'soft'}, 1.0),
    ],
)
def test_experts_per_token(section, number):
    config = config_of(router=section)
    assert (
        experts_per_token(config.router) == config.experts_per_token == number
    )
    if section['name'] != 'soft':  # top2 outside of it
        two = config_of(router=section, **two_level())
        assert two.experts_per_token == 2 * number


@pytest.mark.parametrize('name', sorted(set(ROUTERS) - {'soft'}))
def test_every_router_can_be_configured(name):
    # Those that draw, hash or keep state too: the check lacks nothing.
    layer = build(num_experts=8, router={'name': name})
    assert layer.router.func is ROUTERS[name]


def test_shapes_of_a_routing():
    # Two choices of 8 tokens; of experts that choose, 8 * 2 / 4 tokens each.
    assert routing_of(ROUTERS['top_k'], 4, 'router').expert.shape == (1, 2, 8)
    routing = routing_of(ROUTERS['expert_choice'], 4, 'router')
    assert routing.weight.shape == (1, 4, 4)
    with pytest.raises(ConfigError, match=r'^outer.k = 2: must be at most'):
        routing_of(ROUTERS['top_k'], 1, 'outer')

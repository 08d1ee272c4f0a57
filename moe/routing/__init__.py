"""Routers: pure functions from logits to a Routing, found by name."""

from moe.config import Registry
from moe.routing.dynamic import relu, top_p
from moe.routing.expert_choice import expert_choice
from moe.routing.fixed import hashed, random, uniform
from moe.routing.noise import token_normal, token_uniform
from moe.routing.noisy_top_k import noisy_top_k
from moe.routing.replay import replay
from moe.routing.sigmoid import group_limited, sigmoid
from moe.routing.sinkhorn import sinkhorn
from moe.routing.state import (
    INITIAL_STATE,
    next_state,
    updated_bias,
    updated_penalty,
)
from moe.routing.switch import switch
from moe.routing.top2 import top2
from moe.routing.top_k import top_k
from moe.types import Router

_ROUTERS: dict[str, Router] = {
    'expert_choice': expert_choice,
    'group_limited': group_limited,
    'hash': hashed,
    'noisy_top_k': noisy_top_k,
    'random': random,
    'relu': relu,
    'replay': replay,
    'sigmoid': sigmoid,
    'sinkhorn': sinkhorn,
    'switch': switch,
    'top2': top2,
    'top_k': top_k,
    'top_p': top_p,
    'uniform': uniform,
}

ROUTERS = Registry('router')
for _n, _r in _ROUTERS.items():
    ROUTERS.register(_n)(_r)

__all__ = [
    'INITIAL_STATE',
    'ROUTERS',
    'expert_choice',
    'group_limited',
    'hashed',
    'next_state',
    'noisy_top_k',
    'random',
    'relu',
    'replay',
    'sigmoid',
    'sinkhorn',
    'switch',
    'token_normal',
    'token_uniform',
    'top2',
    'top_k',
    'top_p',
    'uniform',
    'updated_bias',
    'updated_penalty',
]

"""Routers: pure functions from logits to a Routing, found by name."""

from moe.routing.base import ROUTERS
from moe.routing.dynamic import relu, top_p
from moe.routing.expert_choice import expert_choice
from moe.routing.fixed import hash_router, random, round_robin
from moe.routing.noise import token_normal, token_uniform
from moe.routing.noisy_top_k import noisy_top_k
from moe.routing.replay import checked_routes, recorded_routes, replaying
from moe.routing.sigmoid import group_limited, sigmoid
from moe.routing.sinkhorn import sinkhorn
from moe.routing.soft import SoftRouting, slot_logits, soft
from moe.routing.state import (
    BALANCE_RULES,
    PENALTY_RULES,
    SignRule,
    SparsityRule,
    update_router_state,
)
from moe.routing.switch import switch
from moe.routing.top2 import top2
from moe.routing.top_k import top_k

__all__ = [
    'BALANCE_RULES',
    'PENALTY_RULES',
    'ROUTERS',
    'SignRule',
    'SoftRouting',
    'SparsityRule',
    'checked_routes',
    'expert_choice',
    'group_limited',
    'hash_router',
    'noisy_top_k',
    'random',
    'recorded_routes',
    'relu',
    'replaying',
    'round_robin',
    'sigmoid',
    'sinkhorn',
    'slot_logits',
    'soft',
    'switch',
    'token_normal',
    'token_uniform',
    'top2',
    'top_k',
    'top_p',
    'update_router_state',
]

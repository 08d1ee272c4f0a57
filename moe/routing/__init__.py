"""Routers: pure functions from logits to a Routing, found by name."""

from moe.routing.noise import token_uniform
from moe.routing.top_k import top_k
from moe.types import Router

ROUTERS: dict[str, Router] = {
    'top_k': top_k,
}

__all__ = ['ROUTERS', 'token_uniform', 'top_k']

"""The registry of the routers that a config can name."""

from moe.config import Registry

ROUTERS = Registry('router')

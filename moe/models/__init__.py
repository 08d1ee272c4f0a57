"""Models built of mixture layers."""

from moe.models.generate import generate
from moe.models.lm import LM, LMConfig

__all__ = ['LM', 'LMConfig', 'generate']

"""Models built of mixture layers."""

from moe.models.features import Features, FeaturesConfig
from moe.models.generate import generate
from moe.models.lm import LM, LMConfig
from moe.models.vision import ViT, ViTConfig

__all__ = [
    'LM',
    'Features',
    'FeaturesConfig',
    'LMConfig',
    'ViT',
    'ViTConfig',
    'generate',
]

"""Input pipelines: deterministic, checkpointable, sharded by host."""

from moe.data.images import ImageConfig, Images, load_images
from moe.data.text import (
    Corpus,
    TextConfig,
    load_text,
    train_batches,
    val_batches,
)

__all__ = [
    'Corpus',
    'ImageConfig',
    'Images',
    'TextConfig',
    'load_images',
    'load_text',
    'train_batches',
    'val_batches',
]

"""Input pipelines: deterministic, checkpointable, sharded by host."""

from moe.data.text import (
    Corpus,
    TextConfig,
    load_text,
    train_batches,
    val_batches,
)

__all__ = [
    'Corpus',
    'TextConfig',
    'load_text',
    'train_batches',
    'val_batches',
]

"""Input pipelines: deterministic, checkpointable, sharded by host."""

from moe.data.images import ImageConfig, Images, load_images
from moe.data.preprocessing import Preprocessing
from moe.data.schema import Condition, Label, Schema
from moe.data.synthetic import Synthetic, SyntheticConfig, load_synthetic
from moe.data.tables import Table, TableConfig, apply_table, load_table
from moe.data.text import (
    Corpus,
    TextConfig,
    load_text,
    train_batches,
    val_batches,
)

__all__ = [
    'Condition',
    'Corpus',
    'ImageConfig',
    'Images',
    'Label',
    'Preprocessing',
    'Schema',
    'Synthetic',
    'SyntheticConfig',
    'Table',
    'TableConfig',
    'TextConfig',
    'apply_table',
    'load_images',
    'load_synthetic',
    'load_table',
    'load_text',
    'train_batches',
    'val_batches',
]

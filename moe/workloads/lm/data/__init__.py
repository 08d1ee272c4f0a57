"""Data of the language model: sources, tokenizers, windows."""

from moe.workloads.lm.data.array import ArraySource
from moe.workloads.lm.data.array_record import ArrayRecord
from moe.workloads.lm.data.flat import LLMC, NanoGPT
from moe.workloads.lm.data.jsonl import JSONLines
from moe.workloads.lm.data.megatron import Megatron
from moe.workloads.lm.data.mixture import Mixture
from moe.workloads.lm.data.sources import SOURCES, Corpus, Source, check_length
from moe.workloads.lm.data.text import TextFiles
from moe.workloads.lm.data.tokens import Tokens

__all__ = [
    'LLMC',
    'SOURCES',
    'ArrayRecord',
    'ArraySource',
    'Corpus',
    'JSONLines',
    'Megatron',
    'Mixture',
    'NanoGPT',
    'Source',
    'TextFiles',
    'Tokens',
    'check_length',
]

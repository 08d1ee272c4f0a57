"""Ten gigabytes take no memory: sparse files, which take no disk either."""

import itertools
import struct

import numpy as np
import pytest

from moe.workloads.lm.data.flat import LLMC, NanoGPT
from moe.workloads.lm.data.megatron import Megatron
from moe.workloads.lm.data.vocabulary import checked
from moe.workloads.lm.data.windows import (
    DataConfig,
    train_batches,
    val_batches,
)

pytestmark = pytest.mark.slow

SIZE = 10 * 2**30
SEQUENCE = 2**14  # tokens of a sequence of Megatron's index


def anonymous():
    """MiB of this process that no file backs."""
    try:
        with open('/proc/self/status') as file:
            lines = dict(line.split(':', 1) for line in file)
        return int(lines['RssAnon'].split()[0]) / 1024
    except (OSError, KeyError):
        pytest.skip('needs the /proc of Linux')


def sparse(path, head=b'', size=SIZE):
    with path.open('wb') as file:
        file.write(head)
        file.truncate(len(head) + size)
    return str(path)


def nanogpt(tmp_path):
    return NanoGPT(files=sparse(tmp_path / 'a.bin'), end_of_text=5)


def llmc(tmp_path):
    # No more tokens than 31 bits hold: three files.
    for i in range(3):
        header = np.zeros(256, '<i4')
        header[:3] = 20240520, 1, SIZE // 6
        sparse(tmp_path / f'{i}.bin', header.tobytes(), SIZE // 6 * 2)
    return LLMC(files=str(tmp_path), end_of_text=5)


def megatron(tmp_path):
    sparse(tmp_path / 'a.bin')
    count = SIZE // 2 // SEQUENCE
    with (tmp_path / 'a.idx').open('wb') as file:
        head = b'MMIDIDX\0\0', 1, 8, count, count + 1
        file.write(struct.pack('<9sQBQQ', *head))
        file.write(np.full(count, SEQUENCE, '<i4').tobytes())
        file.write((np.arange(count) * 2 * SEQUENCE).astype('<i8').tobytes())
        file.write(np.arange(count + 1).astype('<i8').tobytes())
    return Megatron(files=str(tmp_path / 'a'))


@pytest.mark.parametrize('packing', ['stream', 'documents'])
@pytest.mark.parametrize('make', [nanogpt, llmc, megatron])
def test_memory(tmp_path, make, packing):
    source = make(tmp_path)
    before = anonymous()
    corpus = checked(source.load(1024), 10)
    settings = DataConfig(seq_len=1024, batch_size=8, packing=packing)
    peak = 0.0
    for batches in (
        train_batches(corpus, settings, 0),
        val_batches(corpus, settings),
    ):
        for _ in itertools.islice(batches, 9):
            peak = max(peak, anonymous())
    tokens = corpus.facts['train_tokens'] + corpus.facts['val_tokens']
    assert tokens == SIZE // 2 - (SIZE // 2) % (3 if make is llmc else 1)
    assert peak - before < 200

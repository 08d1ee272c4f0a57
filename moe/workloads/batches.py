"""Batches of an endless stream of examples, the same on any number of hosts."""

from collections.abc import Callable
from typing import Any

import grain

_ENDLESS = (
    2**62
)  # of the stream's 2^63 - 1, which are too many for a batch of 1


def host_batches(
    examples: grain.MapDataset,
    batch_size: int,
    host: int,
    num_hosts: int,
    finish: Callable[[Any], Any] | None = None,
) -> grain.DatasetIterator:
    """Returns this host's rows of each global batch of B consecutive examples.

    Args:
      examples: the examples in their order, without an end.
      batch_size: B, over all hosts.
      host: index of this host.
      num_hosts: number of hosts.
      finish: what is done to each batch, if anything.

    Returns:
      An iterator over batches of B / num_hosts examples, whose state is
      `{"next_index": t}`.
    """
    mine = examples[host:_ENDLESS:num_hosts].batch(batch_size // num_hosts)
    return iterated(mine if finish is None else mine.map(finish))


def iterated(batches: grain.MapDataset) -> grain.DatasetIterator:
    """Returns an iterator over batches that reads them when they are asked for.

    Args:
      batches: the batches in their order.
    """
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    return iter(batches.to_iter_dataset(options))

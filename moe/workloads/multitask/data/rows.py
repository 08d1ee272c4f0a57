"""Batches of rows of arrays, for tables and synthetic data.

N rows, B rows a batch over all hosts.
"""

from collections.abc import Callable, Iterator, Mapping

import grain
import numpy as np

from moe.workloads.batches import iterated
from moe.workloads.multitask.data.hashing import mix, permuted

Rows = Mapping[str, np.ndarray]
Batch = dict[str, np.ndarray]


def train_batches(
    rows: Rows, batch_size: int, seed: int, host: int = 0, num_hosts: int = 1
) -> grain.DatasetIterator:
    """Returns endless shuffled batches, this host's rows of each global one.

    Batch t is the same set of rows on any number of hosts, and the iterator's
    state, `{"next_index": t}`, is the same on all of them. Every epoch has an
    order of its own.

    Args:
      rows: arrays [N, ...] by name, in memory or mapped from a file.
      batch_size: B.
      seed: seed of the order.
      host: index of this host.
      num_hosts: number of hosts.

    Returns:
      An iterator over dictionaries of arrays [B / num_hosts, ...], with
      'valid', bool [B / num_hosts], all True.
    """
    count = num_rows(rows)

    def gather(step, _):
        place = step * batch_size + np.arange(host, batch_size, num_hosts)
        index = np.empty_like(place)
        for epoch in np.unique(place // count):
            mine = place // count == epoch
            key = int(mix(np.array([epoch]), seed)[0] >> np.uint64(8))
            index[mine] = permuted(place[mine] % count, count, key)
        batch = {name: array[index] for name, array in rows.items()}
        return {**batch, 'valid': np.ones(len(index), bool)}

    return endless(gather)


def endless(batch_at: Callable[[int, None], Batch]) -> grain.DatasetIterator:
    """Returns an iterator over the batches of steps 0, 1, 2, ...

    Args:
      batch_at: a function of the step that makes its batch.
    """
    steps = grain.MapDataset.range(1).repeat(None).map_with_index(batch_at)
    return iterated(steps)


def val_batches(
    rows: Rows, batch_size: int, host: int = 0, num_hosts: int = 1
) -> Iterator[Batch]:
    """Yields all rows once, in order, the last batch padded with zeros.

    Args:
      rows: arrays [N, ...] by name.
      batch_size: B.
      host: index of this host.
      num_hosts: number of hosts.

    Yields:
      This host's rows: dictionaries of arrays [B / num_hosts, ...], with
      'valid', bool [B / num_hosts], of the rows that are no padding.
    """
    for first in range(0, num_rows(rows), batch_size):
        batch = {}
        for name, array in rows.items():
            part = array[first : first + batch_size]
            padded = np.zeros((batch_size, *part.shape[1:]), part.dtype)
            padded[: len(part)] = part
            batch[name] = padded[host::num_hosts]
        valid = first + np.arange(batch_size) < num_rows(rows)
        yield {**batch, 'valid': valid[host::num_hosts]}


def num_rows(rows: Rows) -> int:
    """Returns N, the number of rows."""
    return len(next(iter(rows.values())))

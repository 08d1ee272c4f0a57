"""Batches of an endless stream of examples, the same on any number of hosts."""

from collections.abc import Callable
from typing import Any

import grain
from absl import flags

_ENDLESS = (
    2**62
)  # of the stream's 2^63 - 1, which are too many for a batch of 1


def host_batches(
    examples: grain.MapDataset,
    batch_size: int,
    host: int,
    num_hosts: int,
    finish: Callable[[Any], Any] | None = None,
    workers: int = 0,
) -> Any:
    """Returns this host's rows of each global batch of B consecutive examples.

    Args:
      examples: the examples in their order, without an end.
      batch_size: B, over all hosts.
      host: index of this host.
      num_hosts: number of hosts.
      finish: what is done to each batch, if anything.
      workers: processes that make the batches ahead of time; 0 makes them here,
        when they are asked for.

    Returns:
      An iterator over batches of B / num_hosts examples, whose state is
      `{"next_index": t}`.
    """
    mine = examples[host:_ENDLESS:num_hosts].batch(batch_size // num_hosts)
    batches = mine if finish is None else mine.map(finish)
    return _Made(batches, workers) if workers else iterated(batches)


def iterated(
    batches: grain.MapDataset, threads: int = 0
) -> grain.DatasetIterator:
    """Returns an iterator over batches.

    Args:
      batches: the batches in their order.
      threads: how many read ahead, a batch each; with 0 each batch is read
        when it is asked for.
    """
    options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=threads
    )
    return iter(batches.to_iter_dataset(options))


class _Made:
    """An iterator over batches that processes make, in their order.

    Its state is that of `iterated`: it tells nothing of the processes, which
    start with the first batch that is asked for. Worker w of W makes the
    batches w, w + W, ... from there on.
    """

    def __init__(self, batches: grain.MapDataset, workers: int):
        self._batches, self._workers = batches, workers
        self._next, self._made = 0, None  # type: int, Any

    def __iter__(self):
        return self

    def __next__(self):
        if self._made is None:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # grain has some, at their default
            options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
            several = grain.MultiprocessingOptions(
                num_workers=self._workers, per_worker_buffer_size=2
            )
            rest = self._batches[self._next :].to_iter_dataset(options)
            self._made = iter(rest.mp_prefetch(several))
        batch = next(self._made)
        self._next += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """Returns the number of batches that have been taken."""
        return {'next_index': self._next}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes on from a state; processes that were ahead are ended."""
        self.close()
        self._next = state['next_index']

    def close(self) -> None:
        """Ends the processes."""
        if self._made is not None:
            self._made.close()
            self._made = None

"""Calls of a function in several processes."""

import concurrent.futures
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import Any


def results(
    function: Callable[[Any], Any], todo: Sequence[Any], processes: int
) -> Iterator[tuple[Any, Any]]:
    """Yields each argument with the result of a function, as they end.

    Args:
      function: a function of a module, which processes import.
      todo: its arguments.
      processes: how many at once, at most; with 1 this process calls it.

    Raises:
      Whatever the function raises; calls that have not begun are left out.
    """
    count = min(processes, len(todo))
    if count < 2:
        yield from ((one, function(one)) for one in todo)
        return
    context = multiprocessing.get_context('spawn')
    with concurrent.futures.ProcessPoolExecutor(count, context) as pool:
        running = {pool.submit(function, one): one for one in todo}
        try:
            for future in concurrent.futures.as_completed(running):
                yield running[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)

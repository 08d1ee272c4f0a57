"""Interleaved timing, so that a noisy machine is fair to all."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np


def medians(
    calls: Mapping[str, Callable[[], Any]], rounds: int
) -> dict[str, float]:
    """Returns the median seconds of each call, interleaved in every round.

    Args:
      calls: name to a function that returns device arrays.
      rounds: how many times each is timed, after one warm-up.

    Returns:
      Name to median wall-clock seconds.
    """
    for call in calls.values():
        jax.block_until_ready(call())
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(t)) for name, t in times.items()}

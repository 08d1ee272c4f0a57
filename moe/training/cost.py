"""What a run costs: FLOPs of the model, of the devices' peak, memory."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from moe.training.workload import Workload

# Dense bfloat16 FLOP/s of a JAX device, by the beginning of its kind. Sources:
# the system architecture pages of Cloud TPU, per chip (a device of v2, v3 and
# tpu7x is half of one); the data sheets of NVIDIA's cards in SXM form.
PEAKS = {
    r'TPU v2': 22.5e12,
    r'TPU v3': 61.5e12,
    r'TPU v4': 275e12,
    r'TPU v5 ?(lite|e)': 197e12,
    r'TPU v5': 459e12,
    r'TPU v6': 918e12,
    r'TPU ?7x?': 1153.5e12,
    r'NVIDIA A100': 312e12,
    r'NVIDIA H[12]00(?! (PCIe|NVL))': 989.4e12,
    r'NVIDIA B200': 2250e12,
    r'NVIDIA GB200': 2500e12,
}


def peak_of(kind: str) -> float | None:
    """Returns the peak bfloat16 FLOP/s of a device; None if it is not known.

    Args:
      kind: JAX's name of the kind of the device.
    """
    found = (peak for begin, peak in PEAKS.items() if re.match(begin, kind))
    return next(found, None)


class Cost:
    """The metrics of what a run costs, all of the host.

    Args:
      workload: workload of the run.
      devices: all devices of the run.
    """

    def __init__(self, workload: Workload, devices: Sequence[jax.Device]):
        self._workload = workload
        self._flops = workload.flops_per_unit()
        peak = peak_of(devices[0].device_kind)
        self._peak = None if peak is None else peak * len(devices)
        self._local = [
            d for d in devices if d.process_index == jax.process_index()
        ]

    def constants(self) -> dict[str, float]:
        """Returns the model's FLOPs a token or example, by part of it."""
        unit = self._workload.unit[:-1]
        return {
            f'cost/flops_per_{unit}/{part}': flops
            for part, flops in self._flops.items()
        }

    def metrics(
        self, step: int, speed: Mapping[str, float]
    ) -> dict[str, float]:
        """Returns the metrics of a line.

        Args:
          step: number of steps taken.
          speed: metrics of `Clock.speed`.

        Returns:
          Units seen; the model's TFLOP/s and their share of the devices' peak,
          where these are known; the largest memory of a device of this process
          so far, in bytes, where the platform tells it.
        """
        workload = self._workload
        found = {
            f'cost/{workload.unit}_seen': float(step * workload.units_per_step)
        }
        rate = speed.get(f'train/{workload.unit}_per_second')
        total = sum(self._flops.values())
        if rate is not None and total:
            found['cost/model_tflops'] = rate * total / 1e12
            if self._peak is not None:
                found['cost/mfu'] = rate * total / self._peak
        peaks = [
            stats['peak_bytes_in_use']
            for stats in map(_memory_stats, self._local)
            if 'peak_bytes_in_use' in stats
        ]
        if peaks:
            found['cost/device_memory_peak'] = float(max(peaks))
        return found


def _memory_stats(device: Any) -> dict[str, int]:
    return device.memory_stats() or {}

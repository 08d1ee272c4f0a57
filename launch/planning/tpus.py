"""TPU chips with their published figures, and boxes of them."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.experimental import topologies

from launch.planning.machines import GB, GIB, Chip, NoCompiler, Topology


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tpu(Chip):
    """Published figures of a TPU chip.

    Attributes:
      ici: bytes/s that a chip can receive over all links, and send at the same
        time; vendors also publish the sum of both directions.
      dims: number of dimensions of the torus, each with two links a chip.
      wrap: a dimension whose size is a multiple of this is a ring.
      mode: the compiler's name for the chip with its cores as one device; None
        if it has no other.
    """

    ici: float
    dims: int
    wrap: int
    mode: str | None = None


def _tpu(flops, memory, bandwidth, ici, dims, wrap, **more):
    return Tpu(
        flops=flops * 1e12,
        memory=memory * GIB,
        bandwidth=bandwidth * GB,
        ici=ici * GB,
        dims=dims,
        wrap=wrap,
        **more,
    )


# Source: the system architecture pages of Cloud TPU,
# cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, 'Key chip specifications':
# peak compute per chip (bf16), HBM capacity and bandwidth, and inter-chip
# interconnect bandwidth: 2400, 1600, 4800 and 3200 Gbps a chip one way, and
# 1200 GB/s both ways for tpu7x (600 one way). The memory is what the compiler
# has: it says 95.74 GiB of v5p's '95 GB'.
TPUS = {
    'v4': _tpu(275, 32, 1228, 300, 3, 4, mode='megacore'),
    'v5e': _tpu(197, 16, 819, 200, 2, 16),
    'v5p': _tpu(459, 95, 2765, 600, 3, 4, mode='megacore'),
    'v6e': _tpu(918, 32, 1640, 400, 2, 16),
    'tpu7x': _tpu(2307, 192, 7380, 600, 3, 4, devices=2),
}


@dataclasses.dataclass(frozen=True)
class Torus(Topology):
    """A box of TPU chips, e.g. `v5p:4x4x8`.

    Attributes:
      chip: the chip, one of TPUS.
      shape: chips along each dimension of the torus.
    """

    chip: Tpu

    platform = 'tpu'

    def devices(self):
        """Returns the devices, by libtpu."""
        # Without a TPU: no query of its metadata, and no lock.
        os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
        os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')  # uses no chip
        os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5p-8')
        os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
        mode = self.chip.mode
        options = {'chip_config_name': mode} if mode else {}
        try:
            with _quiet():
                found = topologies.get_topology_desc(
                    platform='tpu', topology_name=self.name, **options
                )
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            if 'not installed' in reason:
                reason = 'the TPU compiler is missing: pip install moe[plan]'
            raise NoCompiler(f'{self.name}: {reason}') from None
        return found.devices

    def wraps(self, dim: int) -> bool:
        """Whether a dimension is a ring, not a line."""
        return self.shape[dim] % self.chip.wrap == 0

    def coordinates(self, device: Any) -> tuple[int, ...]:
        """Returns the chip's place along each dimension."""
        return tuple(device.coords)

    def travel(self, kind, received, groups):
        """Returns the bytes by 'ici', and seconds at the links of a torus.

        A group, the first of all, can use the links of the dimensions in which
        its devices differ: two a dimension if it is a ring and spans the group,
        else one. Gathers and reductions run at the sum of these; in an
        all-to-all every byte also takes as many links as the mean distance of
        two devices.
        """
        return {'ici': received}, self._seconds(kind, received, groups[0])

    def _seconds(self, kind: str, received: float, group: np.ndarray) -> float:
        if not received:
            return 0.0
        links, hops = 0, 0.0
        for dim, size in enumerate(self.shape):
            places = np.unique(group[:, dim])
            if len(places) == 1:
                continue
            ring = self.wraps(dim) and len(places) == size
            links += 2 if ring else 1
            distance = np.abs(group[:, None, dim] - group[None, :, dim])
            if ring:
                distance = np.minimum(distance, size - distance)
            hops += float(distance.mean())
        if not links:  # two devices of one chip
            return 0.0
        bandwidth = self.chip.ici * links / (2 * len(self.shape))
        bandwidth /= self.chip.devices
        all_to_all = kind in ('all-to-all', 'ragged-all-to-all')
        n = len(group)
        # Of n devices one is oneself: the mean over the others.
        factor = max(1.0, hops * n / (n - 1)) if all_to_all else 1.0
        return received * factor / bandwidth


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what libtpu writes to stderr about the absence of a TPU."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)

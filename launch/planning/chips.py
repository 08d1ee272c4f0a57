"""TPU chips with their published figures, and topologies of chips."""

import dataclasses
import math
import re

from moe.config import ConfigError

GB = 1e9
GIB = 2.0**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published figures of one chip.

    Attributes:
      flops: peak bfloat16 FLOP/s.
      memory: HBM, bytes.
      bandwidth: bandwidth of the HBM, bytes/s.
      ici: bytes/s that a chip can receive over all links, and send at the same
        time; vendors also publish the sum of both directions.
      dims: number of dimensions of the torus, each with two links a chip.
      wrap: a dimension whose size is a multiple of this is a ring.
      devices: number of JAX devices of a chip.
      mode: the compiler's name for the chip with its cores as one device; None
        if it has no other.
    """

    flops: float
    memory: float
    bandwidth: float
    ici: float
    dims: int
    wrap: int
    devices: int = 1
    mode: str | None = None


# Source: the system architecture pages of Cloud TPU,
# cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, 'Key chip specifications':
# peak compute per chip (bf16), HBM capacity and bandwidth, and inter-chip
# interconnect bandwidth: 2400, 1600, 4800 and 3200 Gbps a chip one way, and
# 1200 GB/s both ways for tpu7x (600 one way). The memory is what the compiler
# has: it says 95.74 GiB of v5p's '95 GB'.
CHIPS = {
    'v4': Chip(275e12, 32 * GIB, 1228 * GB, 300 * GB, 3, 4, mode='megacore'),
    'v5e': Chip(197e12, 16 * GIB, 819 * GB, 200 * GB, 2, 16),
    'v5p': Chip(459e12, 95 * GIB, 2765 * GB, 600 * GB, 3, 4, mode='megacore'),
    'v6e': Chip(918e12, 32 * GIB, 1640 * GB, 400 * GB, 2, 16),
    'tpu7x': Chip(2307e12, 192 * GIB, 7380 * GB, 600 * GB, 3, 4, devices=2),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A box of chips, e.g. `v5p:4x4x8`.

    Attributes:
      name: name of the topology, CHIP:SIZES.
      chip: the chip, one of CHIPS.
      shape: chips along each dimension of the torus.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def num_chips(self) -> int:
        """Returns the number of chips."""
        return math.prod(self.shape)

    @property
    def num_devices(self) -> int:
        """Returns the number of JAX devices."""
        return self.num_chips * self.chip.devices

    def wraps(self, dim: int) -> bool:
        """Whether a dimension is a ring, not a line."""
        return self.shape[dim] % self.chip.wrap == 0


def parse_topology(name: str | None) -> Topology:
    """Reads `CHIP:AxB` or `CHIP:AxBxC`.

    Args:
      name: CHIP:SIZES, as the user gives it.

    Returns:
      The topology.

    Raises:
      ConfigError: for an unknown chip, or a wrong number of sizes.

    >>> parse_topology('v5p:4x4x8').num_chips
    128
    """
    kind, _, sizes = (name or '').partition(':')
    chip = CHIPS.get(kind)
    if chip is None:
        known = ', '.join(f'{c}:{"x".join("4" * CHIPS[c].dims)}' for c in CHIPS)
        raise ConfigError('--topology', name, f'CHIP:SIZES, such as {known}')
    if not re.fullmatch(r'[1-9]\d*(x[1-9]\d*)*', sizes) or (
        sizes.count('x') + 1 != chip.dims
    ):
        example = f'{kind}:{"x".join("4" * chip.dims)}'
        allowed = f'{chip.dims} sizes after {kind}, such as {example}'
        raise ConfigError('--topology', name, allowed)
    shape = tuple(int(size) for size in sizes.split('x'))
    return Topology(f'{kind}:{sizes}', chip, shape)

"""TPU slices as `launch.plan` names them, and as Google's tools do."""

import dataclasses
import math
import re

from launch.planning.chips import parse_topology
from launch.planning.tpus import Torus
from moe.config import ConfigError

# Chips of a host of a slice of several.
_OF_A_HOST = 4


@dataclasses.dataclass(frozen=True)
class Chip:
    """What Google's tools call a chip; '' where they do not serve it.

    Attributes:
      type: accelerator type of the Cloud TPU API, before the number.
      counted: what that number counts of a chip: 2 cores, or itself.
      machine: machine type of Compute Engine's hosts.
      image: family of their images, in `ubuntu-os-accelerator-images`.
      runtime: runtime version of the Cloud TPU API's hosts.
    """

    type: str = ''
    counted: int = 1
    machine: str = ''
    image: str = ''
    runtime: str = ''


_IMAGE = 'ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e'
# Sources: cloud.google.com/tpu/docs/runtimes, 'TPU software versions';
# docs.cloud.google.com/compute/docs/tpus/tpu-machines, and 'OS images' there;
# docs.cloud.google.com/tpu/docs/tpus-and-migs: 'v5p, v6e, and TPU7x'. Read in
# November 2026.
CHIPS = {
    'v4': Chip('v4', 2, runtime='tpu-ubuntu2204-base'),
    'v5e': Chip('v5litepod', 1, runtime='v2-alpha-tpuv5-lite'),
    'v5p': Chip('v5p', 2, 'ct5p-hightpu-4t', _IMAGE, 'v2-alpha-tpuv5'),
    'v6e': Chip('v6e', 1, 'ct6e-standard-4t', _IMAGE, 'v2-alpha-tpuv6e'),
    'tpu7x': Chip(
        machine='tpu7x-standard-4t', image='ubuntu-accel-2404-amd64-tpu-tpu7x'
    ),
}
# Accelerator types of the Cloud TPU API, before their number.
TYPES = {chip.type: name for name, chip in CHIPS.items() if chip.type}


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice of a pod.

    Attributes:
      name: name of the chip, a key of `CHIPS`.
      topology: chips along each dimension, as AxB or AxBxC.
    """

    name: str
    topology: str

    @property
    def chip(self) -> Chip:
        """Returns what tools call the chip."""
        return CHIPS[self.name]

    @property
    def chips(self) -> int:
        """Returns the number of chips."""
        return math.prod(map(int, self.topology.split('x')))

    @property
    def hosts(self) -> int:
        """Returns the number of Compute Engine's hosts."""
        return -(-self.chips // _OF_A_HOST)

    @property
    def type(self) -> str:
        """Returns the accelerator type of the Cloud TPU API."""
        return f'{self.chip.type}-{self.chips * self.chip.counted}'


def read(accelerator: str) -> Slice | None:
    """Reads CHIP:TOPOLOGY, such as v5p:4x4x8, or an accelerator type.

    Args:
      accelerator: as the user gives it.

    Returns:
      The slice; None for an accelerator type, whose topology is not known.

    Raises:
      ConfigError: for what is neither.
    """
    if ':' in accelerator:
        name, _, topology = accelerator.partition(':')
        try:
            found = parse_topology(accelerator)
        except ConfigError as error:
            raise ConfigError(
                'accelerator', accelerator, error.allowed
            ) from None
        if not isinstance(found, Torus):
            allowed = f'a TPU: one of {", ".join(CHIPS)}, and its topology'
            raise ConfigError('accelerator', accelerator, allowed)
        return Slice(name, topology)
    kind, _, number = accelerator.partition('-')
    if kind in CHIPS and kind not in TYPES:
        allowed = f'{kind}:TOPOLOGY, such as {kind}:4x4x4'
        if CHIPS[kind].type:
            allowed = f'{CHIPS[kind].type}-{number}, as its types are called'
        raise ConfigError('accelerator', accelerator, allowed)
    if not re.fullmatch(r'[a-z0-9]+-[a-z0-9-]+', accelerator):
        allowed = 'CHIP:TOPOLOGY, such as v5p:4x4x8, or a type, such as v5p-256'
        raise ConfigError('accelerator', accelerator, allowed)
    return None

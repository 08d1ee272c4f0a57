"""What plans know of machines: figures of a chip, and what joins chips."""

import abc
import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

GB = 1e9
GIB = 2.0**30


class NoCompiler(RuntimeError):
    """The compiler for a topology is not installed, or lacks it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """Published figures of one chip.

    Attributes:
      flops: peak bfloat16 FLOP/s, dense.
      memory: HBM, bytes.
      bandwidth: bandwidth of the HBM, bytes/s.
      devices: number of JAX devices of a chip.
    """

    flops: float
    memory: float
    bandwidth: float
    devices: int = 1


@dataclasses.dataclass(frozen=True)
class Topology(abc.ABC):
    """Chips, and what joins them.

    Attributes:
      name: name of the topology, CHIP:SIZES.
      chip: the chip.
      shape: number of chips along each dimension.
      platform: JAX's name of the chips' platform.
      compiler_options: options with which programs are compiled for it.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]

    platform: ClassVar[str]
    compiler_options: ClassVar[Mapping[str, Any]] = {}

    @property
    def num_chips(self) -> int:
        """Returns the number of chips."""
        return math.prod(self.shape)

    @property
    def num_devices(self) -> int:
        """Returns the number of JAX devices."""
        return self.num_chips * self.chip.devices

    @abc.abstractmethod
    def devices(self) -> Sequence[Any]:
        """Returns the JAX devices, to compile for.

        Raises:
          NoCompiler: without the compiler, or for a topology it does not have.
        """

    def lowering(self) -> contextlib.AbstractContextManager[None]:
        """Returns a context in which programs are lowered for it."""
        return contextlib.nullcontext()

    @abc.abstractmethod
    def coordinates(self, device: Any) -> tuple[int, ...]:
        """Returns where the chip of a JAX device is.

        Args:
          device: a device of the compiler for this topology.
        """

    @abc.abstractmethod
    def travel(
        self, kind: str, received: float, groups: Sequence[np.ndarray]
    ) -> tuple[dict[str, float], float]:
        """Returns by what links the bytes of a collective come, and its time.

        Other traffic on the same links, and latency, are left out.

        Args:
          kind: kind of the collective.
          received: bytes that a device receives.
          groups: coordinates of the devices of every group, each [n, dims].

        Returns:
          Bytes that a device receives by the name of the link, and seconds.
        """

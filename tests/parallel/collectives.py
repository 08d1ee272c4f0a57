"""What a compiled program sends between devices, read from its text."""

import collections
import math
import re
from typing import NamedTuple

_KINDS = (
    'all-gather',
    'all-reduce',
    'all-to-all',
    'collective-permute',
    'ragged-all-to-all',
    'reduce-scatter',
)
# `%name = shapes kind(operands), attributes`; an asynchronous one is counted
# where it starts.
_LINE = re.compile(
    rf'= (?P<shapes>.*?) (?P<kind>{"|".join(_KINDS)})(?P<start>-start)?\('
    r'.*?\)(?P<rest>.*)'
)
_SHAPE = re.compile(r'\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]')
# The three ways to write who talks to whom: lists of devices, their shape, and
# axes (or `(before)size` parts of them) of a mesh of devices.
_LISTS = re.compile(r'replica_groups=\{\{([\d,]*)\}')
_GRID = re.compile(r'replica_groups=\[\d+,(\d+)\]<=')
_MESH = re.compile(r'replica_groups=mesh\[(.*?)\].*?\{(.*?)\}')


class Collective(NamedTuple):
    """A kind of communication of one size.

    Attributes:
      kind: as XLA calls it, 'all-to-all' for instance.
      devices: how many take part together.
      size: bytes of the result on one device; of a ragged all-to-all, of
        the buffer that it fills in part.
      times: how many of them the program holds; the body of a loop is in it
        once, however often it runs.
    """

    kind: str
    devices: int
    size: int
    times: int

    @property
    def sent(self) -> int:
        """Bytes that one device has to send, for all of them.

        Of n devices: an all-to-all keeps 1/n of its buffer, a gather has its
        n-th part sent to the others, a reduce-scatter is that the other way
        round, and an all-reduce is both.
        """
        others = self.devices - 1
        one = {
            'reduce-scatter': self.size * others,
            'all-reduce': 2 * self.size * others // self.devices,
            'collective-permute': self.size,
        }.get(self.kind, self.size * others // self.devices)
        return one * self.times


def collectives(text: str) -> list[Collective]:
    """Lists the communication of a program.

    Args:
      text: of a compiled program, `jit(f).lower(...).compile().as_text()`.

    Returns:
      What is sent, sorted, equal ones counted; without those of one device.

    >>> line = '%x = f32[4,2]{1,0} all-gather(%y), replica_groups={{0,1},{2,3}}'
    >>> collectives(line)
    [Collective(kind='all-gather', devices=2, size=32, times=1)]
    """
    found: collections.Counter = collections.Counter()
    for match in _LINE.finditer(text):
        shapes = _SHAPE.findall(match['shapes'])
        if match['start'] and match['kind'] != 'all-reduce':
            # (operand, result), and perhaps scalars of its context
            shapes = [shape for shape in shapes if shape[2]][-1:]
        size = sum(_bytes(*shape) for shape in shapes)
        found[match['kind'], _devices(match['rest']), size] += 1
    return sorted(
        Collective(kind, devices, size, times)
        for (kind, devices, size), times in found.items()
        if devices > 1
    )


def _bytes(name: str, bits: str, shape: str) -> int:
    one = int(bits) // 8 if bits else 1
    return one * math.prod(int(n) for n in shape.split(',') if n)


def _devices(attributes: str) -> int:
    """Devices that talk to each other."""
    if match := _LISTS.search(attributes):
        return len(match[1].split(','))
    if match := _GRID.search(attributes):
        return int(match[1])
    if match := _MESH.search(attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        used = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", match[2])
        return math.prod(int(part or sizes[axis]) for axis, part in used)
    return 2  # pairs

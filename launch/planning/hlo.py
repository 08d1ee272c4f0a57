"""Parses the text of a compiled program: shapes, loops, device groups."""

import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np

_BITS = {'pred': 8, 'bf16': 16, 'token': 0, 'opaque': 0}
_SHAPE = re.compile(r'(\w+)\[([\d,]*)\](?:\{([^}]*)\})?')
_HEAD = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$')
_INSTRUCTION = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = (.*)$')

# Attributes of a kernel continue on lines that begin like this.
_BROKEN = re.compile(r'\n(?="|\}\})')


class HLOError(ValueError):
    """The text of a program cannot be parsed; no plan is made."""


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a shape.

    Attributes:
      dtype: such as 'bf16'.
      dims: sizes.
      in_hbm: False for what the compiler placed in memory on the chip.
    """

    dtype: str
    dims: tuple[int, ...]
    in_hbm: bool = True

    @property
    def bytes(self) -> int:
        """Returns the size in bytes, without padding."""
        bits = _BITS.get(self.dtype)
        if bits is None:  # f32, s8, u4, f8e4m3fn: the digits that come first
            found = re.match(r'[a-z]+(\d+)', self.dtype)
            bits = int(found.group(1)) if found else 0
        return math.ceil(math.prod(self.dims) * bits / 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: `name = shape opcode(operands), attributes`."""

    name: str
    shape: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    literal: str

    def called(self, role: str) -> str | None:
        """Name of the computation in a role: 'body', 'calls', ..."""
        found = re.search(rf'\b{role}=%?([\w.\-]+)', self.attributes)
        return found.group(1) if found else None


@dataclasses.dataclass(frozen=True)
class Computation:
    """A list of instructions; the last one need not be the root."""

    instructions: dict[str, Instruction]
    root: Instruction

    def users(self, name: str) -> Iterator[Instruction]:
        """Yields the instructions that read one."""
        for instruction in self.instructions.values():
            if name in instruction.operands:
                yield instruction

    def arrays(self, instruction: Instruction) -> list[Array]:
        """Returns all arrays of an instruction's operands."""
        return [
            array
            for operand in instruction.operands
            for array in self.instructions[operand].shape
        ]


@dataclasses.dataclass(frozen=True)
class Program:
    """All computations by name, and which is the entry."""

    computations: dict[str, Computation]
    entry: str

    def trips(self, loop: Instruction) -> int:
        """Returns how often the body of a while loop runs.

        A scan counts from 0 by 1, and its condition compares the counter with
        a constant.

        Args:
          loop: the instruction.

        Returns:
          The constant.

        Raises:
          HLOError: if the condition is not of this kind.
        """
        known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if known:
            return int(known.group(1))
        condition = self.computations[loop.called('condition') or '']
        return self._bound(condition, loop.name)

    def _bound(self, condition: Computation, name: str) -> int:
        compare = condition.root
        if compare.opcode == 'fusion':
            inner = self.computations[compare.called('calls') or '']
            constants = [condition.instructions[o] for o in compare.operands]
            constants += list(inner.instructions.values())
            compare = inner.root
        else:
            constants = [condition.instructions[o] for o in compare.operands]
        bounds = {
            int(c.literal)
            for c in constants
            if c.opcode == 'constant' and re.fullmatch(r'-?\d+', c.literal)
        }
        less = 'direction=LT' in compare.attributes
        if compare.opcode != 'compare' or not less or len(bounds) != 1:
            raise HLOError(f'loop {name}: no trip count in its condition')
        return bounds.pop()


def parse(text: str) -> Program:
    """Reads `compiled.as_text()`.

    Args:
      text: text of an HLO module.

    Returns:
      The program.

    Raises:
      HLOError: if there is no entry computation.
    """
    computations: dict[str, Computation] = {}
    instructions: dict[str, Instruction] = {}
    name, entry, root = '', '', None
    for line in _BROKEN.sub(' ', text).splitlines():
        head = _HEAD.match(line)
        if head:
            name, instructions, root = head.group(2), {}, None
            entry = name if head.group(1) else entry
        elif line.startswith('}') and root is not None:
            computations[name] = Computation(instructions, root)
            root = None
        else:
            found = _INSTRUCTION.match(line)
            if found:
                made = _instruction(found.group(2), found.group(3))
                instructions[made.name] = made
                root = made if found.group(1) else root
    if entry not in computations:
        raise HLOError('no entry computation')
    return Program(computations, entry)


def _instruction(name: str, rest: str) -> Instruction:
    end = _closing(rest) if rest.startswith('(') else _shape_end(rest)
    shape, rest = rest[:end], rest[end:].strip()
    opcode, _, rest = rest.partition('(')
    end = _closing('(' + rest) - 2
    inside, attributes = rest[:end], rest[end + 1 :]
    operands = tuple(re.findall(r'%([\w.\-]+)', inside))
    return Instruction(
        name, _arrays(shape), opcode, operands, attributes, inside
    )


def _shape_end(text: str) -> int:
    found = _SHAPE.match(text)
    if not found:
        raise HLOError(f'no shape in: {text[:80]}')
    return found.end()


def _closing(text: str) -> int:
    """Index past the parenthesis that closes the first one."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character == '(') - (character == ')')
        if not depth:
            return i + 1
    raise HLOError(f'open parenthesis in: {text[:80]}')


def _arrays(shape: str) -> tuple[Array, ...]:
    shape = re.sub(r'/\*.*?\*/', '', shape)
    return tuple(
        Array(
            dtype,
            tuple(int(d) for d in dims.split(',') if d),
            not re.search(r'S\([1-9]', layout),
        )
        for dtype, dims, layout in _SHAPE.findall(shape)
    )


def groups_of(attributes: str, num_devices: int) -> list[list[int]]:
    """Returns the groups of a collective.

    The groups may be listed, `{{0,1},{2,3}}`, be a reshaped and transposed
    range, `[2,2]<=[2,2]T(1,0)`, or be axes of a mesh of the program's own,
    `mesh['a'=2,'b'=2] {'b'}`. Those of a permutation are its cycles.

    Args:
      attributes: attributes of the instruction.
      num_devices: number of devices of the program.

    Returns:
      Positions of the devices of each group, ascending, that of the first
      device first.

    Raises:
      HLOError: if the groups cannot be read.
    """
    pairs = re.search(r'source_target_pairs=\{(.*?\})\}', attributes)
    if pairs:
        return _cycles(pairs.group(1))
    found = re.search(r'replica_groups=(.*)', attributes)
    text = found.group(1) if found else '{}'
    if text.startswith('{}'):
        return [list(range(num_devices))]
    if text.startswith('mesh'):
        groups = _mesh_groups(text, num_devices)
    elif text.startswith('['):
        ids = _iota(text)
        groups = ids.reshape(ids.shape[0], -1).tolist()
    else:
        listed = re.match(r'\{((?:\{[\d,]+\},?)+)\}', text)
        if not listed:
            raise HLOError(f'replica groups {text[:80]}')
        groups = [
            [int(i) for i in group.split(',')]
            for group in re.findall(r'\{([\d,]+)\}', listed.group(1))
        ]
    return sorted(sorted(group) for group in groups)


def _cycles(pairs: str) -> list[list[int]]:
    """Returns sets of devices that data reach by repetition of pairs."""
    step = dict(
        (int(a), int(b)) for a, b in re.findall(r'\{(\d+),(\d+)\}', pairs)
    )
    cycles = []
    while step:
        at = min(step)
        seen = {at}
        while at in step:
            at = step.pop(at)
            seen.add(at)
        cycles.append(sorted(seen))
    return cycles


def _iota(text: str) -> np.ndarray:
    """`[dims]<=[shape]T(order)`: a range, reshaped, transposed, reshaped."""
    found = re.match(r'(?:\[([\d,]+)\]<=)?\[([\d,]+)\](?:T\(([\d,]+)\))?', text)
    if not found:
        raise HLOError(f'replica groups {text[:80]}')
    dims, shape, order = (
        [int(i) for i in part.split(',')] if part else None
        for part in found.groups()
    )
    ids = np.arange(math.prod(shape or [])).reshape(shape or [])
    ids = ids.transpose(order) if order else ids
    return ids.reshape(dims) if dims else ids


def _mesh_groups(text: str, num_devices: int) -> list[list[int]]:
    """`mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a','b':(1)2}`."""
    sizes, _, rest = text.removeprefix('mesh[').partition(']')
    order, _, chosen = rest.partition('{')
    axes = {n: int(k) for n, k in re.findall(r"'([^']+)'=(\d+)", sizes)}
    ids = np.arange(num_devices)
    given = re.search(r'device_ids=\((.*)\)', order)
    if given and re.fullmatch(r'[\d,]+', given.group(1)):
        ids = np.array([int(i) for i in given.group(1).split(',')])
    elif given:
        ids = _iota(given.group(1)).ravel()
    if math.prod(axes.values()) != num_devices:
        raise HLOError(f'replica groups {text[:80]}')
    used = re.findall(
        r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen.partition('}')[0]
    )
    # Every axis as (before, part, after): a group takes the parts it names.
    parts = {name: (size, 1, 1) for name, size in axes.items()}
    for name, before, part in used:
        if part:
            after = axes[name] // (int(before) * int(part))
            parts[name] = (int(before), int(part), after)
        else:
            parts[name] = (1, axes[name], 1)
    grid = ids.reshape([n for sizes in parts.values() for n in sizes])
    # Of every axis the part that a group has, last; the others tell groups.
    places = range(1, 3 * len(parts), 3)
    grid = np.moveaxis(grid, places, range(-len(parts), 0))
    size = math.prod(part for _, part, _ in parts.values())
    return grid.reshape(-1, size).tolist()


def axes_of(group: list[int], mesh: dict[str, int]) -> tuple[str, ...]:
    """Returns the mesh axes along which the devices of a group differ.

    Args:
      group: positions in the flattened mesh.
      mesh: sizes by axis, in order.

    Returns:
      Their names, in the order of the mesh.
    """
    places = np.unravel_index(np.array(group), tuple(mesh.values()))
    return tuple(
        name
        for name, place in zip(mesh, places, strict=True)
        if len(set(place.tolist())) > 1
    )

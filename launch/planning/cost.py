"""Counts the work of a compiled program from its text.

Products, HBM traffic and collectives in loops count as often as they run; the
compiler's own analysis counts a loop body once.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

from launch.planning.hlo import Computation, Instruction, Program
from launch.planning.kernels import unseen
from launch.planning.products import product_flops

COLLECTIVES = (
    'all-gather',
    'all-reduce',
    'reduce-scatter',
    'all-to-all',
    'ragged-all-to-all',
    'collective-permute',
    'collective-broadcast',
)
# Instructions without HBM traffic of their own.
_FREE = {
    'after-all',
    'bitcast',
    'call',
    'conditional',
    'constant',
    'get-tuple-element',
    'optimization-barrier',
    'parameter',
    'partition-id',
    'replica-id',
    'tuple',
    'while',
}
_ALIASES = ('bitcast', 'reshape', 'convert', 'copy')


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective, and how often it runs.

    Attributes:
      kind: one of COLLECTIVES.
      bytes: bytes of its operands on a device, each time.
      attributes: attributes of the instruction, which have its groups.
      times: how often it runs in a step.
      part: part of the model's step, see `part`.
    """

    kind: str
    bytes: float
    attributes: str
    times: int
    part: str = ''


@dataclasses.dataclass(frozen=True)
class Cost:
    """The work of one run of a program on one device.

    Attributes:
      flops: FLOPs of all products.
      flops_once: FLOPs as the compiler's own analysis counts them: every loop
        body once, kernels only if they state them.
      bytes: bytes read from and written to the HBM.
      collectives: all collectives.
      parts: FLOPs and bytes by part, see `part`.
    """

    flops: float
    flops_once: float
    bytes: float
    collectives: tuple[Collective, ...]
    parts: dict[str, tuple[float, float]] = dataclasses.field(
        default_factory=dict
    )


def count(program: Program, rows: float = math.inf) -> Cost:
    """Returns the cost of a program.

    Args:
      program: the program of one device.
      rows: rows of experts on a device in the mean, where they are in a larger
        buffer whose empty rows are neither sent nor multiplied.

    Returns:
      Its cost.

    Raises:
      HLOError: for a loop whose trip count cannot be read.
    """
    once, collectives = 0.0, []
    parts: dict[str, tuple[float, float]] = {}
    for at, times, inside in _walk(program, program.entry, 1, False):
        here = program.computations[at]
        for instruction in here.instructions.values():
            work = product_flops(here, instruction)
            moved = 0.0 if inside else traffic(program, here, instruction)
            once += work
            more, streamed = unseen(here, instruction, rows)
            work, moved = work + more, moved + streamed
            kind = _collective_kind(instruction, at)
            given = _given(here, instruction, kind, rows)
            if kind == 'ragged-all-to-all':
                moved = 2 * given
            if work or moved:
                name = part(instruction)
                flops, size = parts.get(name, (0.0, 0.0))
                parts[name] = flops + times * work, size + times * moved
            if kind:
                collectives.append(
                    Collective(
                        kind,
                        given,
                        instruction.attributes,
                        times,
                        part(instruction),
                    )
                )
    return Cost(
        flops=sum(flops for flops, _ in parts.values()),
        flops_once=once,
        bytes=sum(size for _, size in parts.values()),
        collectives=tuple(collectives),
        parts=parts,
    )


def part(instruction: Instruction) -> str:
    """Returns the part of the model and the pass an instruction belongs to.

    Args:
      instruction: the instruction, whose metadata names the model's module.

    Returns:
      Such as 'moe, backward': the module inside a block, or one beside the
      blocks ('embedding', 'head', 'stack' for what all blocks keep and read,
      'loss'), and 'forward', 'recomputed' (for the backward pass) or
      'backward'. 'update' for the optimizer and the norms of gradients, 'rest'
      for what the compiler names nothing of.
    """
    name = re.search(r'op_name="([^"]*)"', instruction.attributes)
    path = name.group(1) if name else ''
    which = 'backward' if 'transpose(' in path else 'forward'
    which = 'recomputed' if 'rematted_computation' in path else which
    block = re.search(r'/block_\d+/(\w+)', path)
    if block:
        return f'{block.group(1)}, {which}'
    # What is differentiated is under jvp(MODEL), or under jvp() outside of it;
    # a method of a module that is no call has the name CLASS.METHOD.
    method = r'(?:\w+\.\w+/)*'
    inside = re.search(rf'jvp\(([\w.]*)\)+/{method}(?:(\w+)/)?', path)
    if inside:
        module = inside.group(2) if inside.group(1) else 'loss'
        return f'{module or "rest of the model"}, {which}'
    return 'update' if path else 'rest'


def _walk(
    program: Program, name: str, times: int, inside: bool
) -> Iterator[tuple[str, int, bool]]:
    """Yields computations, how often they run, and whether they are fused."""
    yield name, times, inside
    for instruction in program.computations[name].instructions.values():
        opcode, called = instruction.opcode, instruction.called
        if opcode == 'while':
            often = times * program.trips(instruction)
            yield from _walk(program, called('body') or '', often, inside)
        elif opcode in ('fusion', 'fusion-start'):
            yield from _walk(program, called('calls') or '', times, True)
        elif opcode in ('call', 'call-start', 'async-start'):
            to = called('to_apply') or called('calls') or ''
            yield from _walk(program, to, times, inside)
        elif opcode == 'conditional':
            # Every branch: what a step may do at most.
            found = re.search(
                r'branch_computations=\{(.*?)\}', instruction.attributes
            )
            names = re.findall(r'[\w.\-]+', found.group(1)) if found else []
            names += [
                n
                for n in (
                    called('true_computation'),
                    called('false_computation'),
                )
                if n
            ]
            for branch in names:
                yield from _walk(program, branch, times, inside)


def _collective_kind(instruction: Instruction, inside: str) -> str | None:
    kind = instruction.opcode.removesuffix('-start')
    if kind not in COLLECTIVES:
        return None
    # The TPU's fusion of an all-reduce with the slice that each device keeps.
    fused = kind == 'all-reduce' and 'all-reduce-scatter' in inside
    return 'reduce-scatter' if fused else kind


def _given(
    here: Computation, instruction: Instruction, kind: str | None, rows: float
) -> float:
    """Returns the bytes that a device puts into a collective."""
    if not kind:
        return 0.0
    arrays = here.arrays(instruction)
    if kind != 'ragged-all-to-all':
        return float(sum(array.bytes for array in arrays))
    # Of rows, and of room for those of the others, which may be larger: what is
    # sent in the mean.
    least = min(arrays[:2], key=lambda array: array.bytes)
    return least.bytes * min(1.0, rows / least.dims[0])


def traffic(
    program: Program, here: Computation, instruction: Instruction
) -> float:
    """Returns the bytes an instruction reads from and writes to the HBM.

    A slice reads what it takes and an update in place writes what it puts,
    inside fusions too; all else reads its operands and writes its results.

    Args:
      program: the program, which has the computations of fusions.
      here: the computation of the instruction.
      instruction: any.
    """
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith('-done'):
        return 0.0
    if opcode in ('call-start', 'async-start'):
        return 0.0
    if opcode == 'custom-call' and (
        'AllocateBuffer' in instruction.attributes
        or 'AsyncCall' in instruction.attributes
    ):
        return 0.0
    if opcode == 'copy-start':
        return _hbm(instruction.shape[:2])
    operands = [here.instructions[name] for name in instruction.operands]
    if opcode == 'all-reduce-start':
        return 2 * _hbm(instruction.shape)
    if opcode.endswith('-start'):  # its shape is of operands and results
        return _hbm(instruction.shape)
    if opcode == 'fusion':
        inner = program.computations[instruction.called('calls') or '']
        read = sum(
            _read(program, inner, i, operand)
            for i, operand in enumerate(operands)
        )
        return read + _written(inner, inner.root, instruction.shape)
    read = sum(
        _taken(instruction, i, operand) for i, operand in enumerate(operands)
    )
    if opcode in ('dynamic-update-slice', 'scatter'):
        return read + _hbm(operands[-1 if opcode == 'scatter' else 1].shape)
    return read + _hbm(instruction.shape)


def _hbm(arrays) -> float:
    return float(sum(a.bytes for a in arrays if a.in_hbm))


def _taken(user: Instruction, place: int, operand: Instruction) -> float:
    """Returns the bytes an instruction reads of one operand."""
    whole = _hbm(operand.shape)
    if place == 0 and user.opcode in ('dynamic-slice', 'slice', 'gather'):
        size = float(sum(a.bytes for a in user.shape))
        return min(whole, size)
    if place == 0 and user.opcode in ('dynamic-update-slice', 'scatter'):
        return 0.0
    return whole


def _read(
    program: Program, inner: Computation, place: int, operand: Instruction
) -> float:
    """Returns the bytes a fusion reads of one operand."""
    whole = _hbm(operand.shape)
    if not whole:
        return 0.0
    names = [
        i.name
        for i in inner.instructions.values()
        if i.opcode == 'parameter' and i.literal == str(place)
    ]
    total, todo = 0.0, names
    while todo:
        name = todo.pop()
        for user in inner.users(name):
            places = [i for i, o in enumerate(user.operands) if o == name]
            if user.opcode in ('bitcast', 'tuple'):
                todo.append(user.name)
            elif user.opcode == 'fusion':
                called = program.computations[user.called('calls') or '']
                total += sum(_read(program, called, i, operand) for i in places)
            else:
                total += sum(_taken(user, i, operand) for i in places)
    return min(total, whole)


def _written(inner: Computation, root: Instruction, shape) -> float:
    """Returns the bytes a fusion writes: of an update in place, its own."""
    if root.opcode == 'tuple' and len(root.operands) == len(shape):
        parts = zip(root.operands, shape, strict=True)
        return sum(
            _written(inner, inner.instructions[name], [array])
            for name, array in parts
        )
    while root.opcode in _ALIASES:
        root = inner.instructions[root.operands[0]]
    if root.opcode == 'dynamic-update-slice' and _hbm(shape):
        update = inner.instructions[root.operands[1]]
        return float(sum(a.bytes for a in update.shape))
    return _hbm(shape)

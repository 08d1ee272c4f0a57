"""A warm start: a run that begins with what another run has learned.

The other run's checkpoint is read leaf by leaf, each verified by its checksum,
onto the mesh of this run. Nothing is written to the other folder.
"""

import fnmatch
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from moe.config import ConfigError, differences, to_plain
from moe.parameters import parts
from moe.paths import check_local, read_json
from moe.training import history
from moe.training.checksum import leaf_names
from moe.training.config import Config
from moe.training.folder import DATA, read_plain_config
from moe.training.grids import fits, interpolated
from moe.training.init_from import NEW, RESIZE, InitFrom
from moe.training.record import Leaf, Record, describe_leaves, read_record
from moe.training.restore import (
    check_step,
    list_checkpoints,
    read_leaves,
    restore_newest,
)
from moe.training.step import TrainState
from moe.training.workload import Workload

TAKEN, RESIZED, MADE, LEFT = 'taken', 'resized', 'new', 'left'
INTERPOLATED = 'interpolated'
# What has parameters and variables; the rest is of the optimizer.
_MODEL = ('params/', 'model_state/')
_OPTIMIZER = ('opt_state/', 'average/', 'guard/', 'step')


class Row(NamedTuple):
    """What becomes of one leaf.

    Attributes:
      kind: taken, resized, interpolated, new, or left in the other run.
      name: its name here, or in the other run if it is left there.
      source: its name in the other run; None for one that is new.
      leaf: dtype and shape here, or in the other run if it is left there.
      before: shape in the other run of one that is resized or interpolated.
    """

    kind: str
    name: str
    source: str | None
    leaf: Leaf
    before: tuple[int, ...] | None = None


class WarmStart(NamedTuple):
    """A state that was made of another run's.

    Attributes:
      state: the train state.
      position: state of the data iterator; None for its start.
      run: the other run, as it is given.
      step: step of the checkpoint that was read.
      rows: what became of each leaf.
    """

    state: TrainState
    position: Any
    run: str
    step: int
    rows: list[Row]

    def lines(self) -> list[str]:
        """Returns what is printed: a table of what became of each leaf."""
        rows = [f'  {line}' for line in table(self.rows)]
        return [f'starting from {self.run}, step {self.step}:', *rows]

    def facts(self) -> dict[str, Any]:
        """Returns what the history of the run keeps, JSON."""
        names = {
            kind: [row.name for row in self.rows if row.kind == kind]
            for kind in (TAKEN, RESIZED, INTERPOLATED, MADE, LEFT)
        }
        return {'run': self.run, 'step': self.step, **names}


def check_init_from(
    config: Config,
    workload: Workload,
    workdir: pathlib.Path,
    described: Mapping[str, Any],
    like: Any,
) -> None:
    """Refuses another run that does not fit, by its config and a record.

    Args:
      config: config of this run, with `init_from`.
      workload: its workload.
      workdir: its folder.
      described: the description of its data.
      like: its train state, of `jax.ShapeDtypeStruct`.

    Raises:
      ConfigError: if the other run does not fit.
    """
    given = config.init_from
    assert given is not None
    try:
        check_local(given.folder, 'run')
        if given.folder.resolve() == workdir.resolve():
            raise ConfigError('run', given.run, 'the folder of another run')
        other = read_plain_config(given.folder)
        entries = list_checkpoints(given.folder)
        if not entries:
            allowed = 'the folder of a run with a checkpoint'
            raise ConfigError('run', given.run, allowed)
        check_step(given.step, sorted({entry.step for entry in entries}))
        if given.data:
            _check_data(config, given, other, described)
        for entry in entries:
            if not entry.damage and given.step in (None, entry.step):
                record = read_record(entry.path)
                assign(given, record, like, *_known_of(workload))
                if given.optimizer and record.step >= config.steps:
                    allowed = f'more than the {record.step} of init_from'
                    raise ConfigError('steps', config.steps, allowed)
                break
    except ConfigError as error:
        # Fields of the other folder are those of what is given here.
        if error.field in ('workdir', 'step'):
            error = ConfigError('run', given.run, error.allowed)
        if error.field == 'steps':
            raise error.inside('config') from None
        raise error.inside('config.init_from') from None


def _check_data(config, given, other, described) -> None:
    """Refuses to go on in other data, or in another order of it."""
    now = to_plain(type(config), config)
    keys = ('seed', 'data')
    lines = [
        *differences(
            {k: other.get(k) for k in keys}, {k: now[k] for k in keys}
        ),
        *differences(read_json(given.folder / DATA), described, 'data'),
    ]
    if lines:
        allowed = f'False, as the data or its order differ: {"; ".join(lines)}'
        raise ConfigError('data', True, allowed)


def warm_start(
    config: Config,
    workload: Workload,
    workdir: pathlib.Path,
    first: TrainState,
    mesh: Mesh,
) -> WarmStart:
    """Reads what a run takes of another one, and puts it into a first state.

    The newest checkpoint that was found at the first start is taken again when
    the run starts a second time before it has a checkpoint of its own.

    Args:
      config: config of the run, with `init_from`.
      workload: its workload.
      workdir: its folder.
      first: the state before the first step; those of its leaves that are not
        new are not used any more.
      mesh: the device mesh.

    Raises:
      ConfigError: if the other run does not fit.
      Damaged: if its checkpoint is damaged, or all of them are.
    """
    given = config.init_from
    assert given is not None
    step = given.step
    for event in history.read(workdir):
        known = event.get('init_from')
        if isinstance(known, dict) and known.get('run') == given.run:
            step = known.get('step', step)
    entries = list_checkpoints(given.folder)
    check_step(step, sorted({entry.step for entry in entries}))
    if step is not None:
        entries = [entry for entry in entries if entry.step == step]
    known = _known_of(workload)
    replicated = NamedSharding(mesh, P())
    leaves = dict(zip(leaf_names(first), jax.tree.leaves(first), strict=True))

    def choose(record):
        rows = assign(given, record, first, *known)
        return {
            row.source: _wanted(row, leaves[row.name], replicated)
            for row in rows
            if row.source is not None and row.kind != LEFT
        }

    (record, found), _ = restore_newest(
        given.folder, entries, lambda path: read_leaves(path, choose)
    )
    rows = assign(given, record, first, *known)
    for row in rows:
        if row.kind == TAKEN:
            leaves[row.name] = found[row.source]
        elif row.kind in (RESIZED, INTERPOLATED):
            own, make = leaves[row.name], _resized
            if row.kind == INTERPOLATED:
                make = lambda own, found: interpolated(found, len(own))
            make = jax.jit(make, out_shardings=own.sharding)
            leaves[row.name] = make(own, found[row.source])
    structure = jax.tree.structure(first)
    state = jax.tree.unflatten(
        structure, [leaves[n] for n in leaf_names(first)]
    )
    position = record.position if given.data else None
    return WarmStart(state, position, given.run, record.step, rows)


def _wanted(row: Row, own: jax.Array, replicated: Any) -> Any:
    """Returns the leaf to read, for `read_leaves`."""
    shape, sharding = own.shape, own.sharding
    if row.before is not None:
        # The other shape need not be split over the devices.
        shape, sharding = row.before, replicated
    return jax.ShapeDtypeStruct(shape, own.dtype, sharding=sharding)


def _resized(own: jax.Array, found: jax.Array) -> jax.Array:
    """Returns an array with what both have along each axis from the other."""
    both = tuple(
        slice(min(a, b)) for a, b in zip(own.shape, found.shape, strict=True)
    )
    return own.at[both].set(found[both])


def _known_of(workload: Workload) -> tuple[dict[str, str], frozenset[str]]:
    """Returns the part of each parameter by its name, and the grids' names."""
    tree = {'params': parts(workload.parameters)}
    names, declared = leaf_names(tree), jax.tree.leaves(workload.parameters)
    grids = [n for n, p in zip(names, declared, strict=True) if p.grid]
    where = zip(names, jax.tree.leaves(tree), strict=True)
    return dict(where), frozenset(grids)


def assign(
    given: InitFrom,
    record: Record,
    like: Any,
    where: Mapping[str, str],
    grids: Collection[str] = (),
) -> list[Row]:
    """Says of each leaf of both runs what becomes of it.

    Args:
      given: the section of the config.
      record: record of the other run's checkpoint.
      like: the train state of this run, or shapes like it.
      where: the part of the model that each parameter is of, by name.
      grids: those that are interpolated if they differ, without a rule.

    Raises:
      ConfigError: for a leaf that differs and has no rule, or a rule for none.
    """
    there, rows = record.leaves, []
    unused = dict(given.map)
    here = describe_leaves(like)
    for name, leaf in here.items():
        if name.startswith(_MODEL):
            # Router states are the only variables of a part.
            part = where.get(name, 'router' if 'router' in name else '')
            key = _rule_of(name, part, given.map)
            unused.pop(key, None)
            rules = given.map
            if not key and name in grids:
                key, rules = name, {name: INTERPOLATED}
            rows.append(_row(name, leaf, key, rules, there))
    if given.optimizer:
        of_it = lambda names: {n for n in names if n.startswith(_OPTIMIZER)}
        for name in sorted(of_it(here) | of_it(there)):
            old, new = there.get(name), here.get(name)
            if old is None or new is None or _kind(old) != _kind(new):
                told = f'{name} is {_told(old)} there and {_told(new)} here'
                allowed = f'False, as the optimizer differs: {told}'
                raise ConfigError('optimizer', True, allowed)
            rows.append(Row(TAKEN, name, name, new))
    for key in unused:
        allowed = 'absent: this run has no such parameter or part'
        raise ConfigError(f'map.{key}', given.map[key], allowed)
    used = {row.source for row in rows}
    rows += [
        Row(LEFT, name, name, leaf)
        for name, leaf in there.items()
        if name.startswith(_MODEL) and name not in used
    ]
    return rows


def _rule_of(name: str, part: str, rules: Mapping[str, str]) -> str:
    """Returns the key of the rule for a leaf, '' if there is none."""
    short = name.partition('/')[2]
    for key, action in rules.items():
        if key == part and action in (NEW, RESIZE):
            return key
        if short == key or short.startswith(f'{key}/'):
            return key
        if '*' in key and fnmatch.fnmatchcase(short, key):
            return key
    return ''


def _row(
    name: str,
    leaf: Leaf,
    key: str,
    rules: Mapping[str, str],
    there: Mapping[str, Leaf],
) -> Row:
    action = rules.get(key, '')
    if action == NEW:
        return Row(MADE, name, None, leaf)
    collection, _, short = name.partition('/')
    if action and action not in (RESIZE, INTERPOLATED):
        short = _renamed(short, key, action)
    source = f'{collection}/{short}'
    other = there.get(source)
    if other is not None and _kind(other) == _kind(leaf):
        return Row(TAKEN, name, source, leaf)
    sized = other and (other.dtype, len(other.shape)) == (
        leaf.dtype,
        len(leaf.shape),
    )
    if other is not None and sized and action == RESIZE:
        return Row(RESIZED, name, source, leaf, other.shape)
    if other is not None and sized and action == INTERPOLATED:
        if fits(other.shape, leaf.shape):
            return Row(INTERPOLATED, name, source, leaf, other.shape)
        action = ''
    remedies = 'new, resize' if sized else 'new, or the name of another there'
    raise ConfigError(
        f'map.{name.partition("/")[2]}',
        action or None,
        f'{remedies}: {short} is {_told(other)} there and {_told(leaf)} here',
    )


def _renamed(short: str, key: str, action: str) -> str:
    """Returns the name in the other run, as a rule says."""
    if '*' not in key:
        return action + short[len(key) :]
    before, _, after = key.partition('*')
    matched = short[len(before) : len(short) - len(after)]
    return action.replace('*', matched, 1)


def _kind(leaf: Leaf) -> tuple[str, tuple[int, ...]]:
    return leaf.dtype, tuple(leaf.shape)


def _told(leaf: Leaf | None) -> str:
    return f'{leaf.dtype}{list(leaf.shape)}' if leaf else 'absent'


def table(rows: Sequence[Row]) -> list[str]:
    """Returns the lines of a table of what became of the leaves.

    The optimizer's are one line.

    Args:
      rows: rows of a `WarmStart`.
    """
    cells, others = [], 0
    for row in rows:
        if not row.name.startswith(_MODEL):
            others += 1
            continue
        name = row.name.partition('/')[2]
        more = ''
        if row.source not in (None, row.name):
            more = f'from {str(row.source).partition("/")[2]}'
        if row.before is not None:
            more = f'{more} from {list(row.before)}'.strip()
        cells.append((row.kind, name, _told(row.leaf), more))
    if others:
        name = 'optimizer and number of steps'
        cells.append((TAKEN, name, f'{others} arrays', ''))
    widths = [max(len(cell[i]) for cell in cells) for i in range(3)]
    return [
        '  '.join(
            c.ljust(w) for c, w in zip(cell, [*widths, 0], strict=True)
        ).rstrip()
        for cell in cells
    ]

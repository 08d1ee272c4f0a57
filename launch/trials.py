"""Reads a sweep from a config file: named trials with checked configs.

Beside `get_config` the file has either `sweep()`, which yields dictionaries
from dotted field to value, or `get_hyper(hyper)`, which returns a list of them
made with `launch.hyper`. A field may be a whole section, and may begin with
`config.`. One that begins with `slurm.` is an option of that backend for the
trial alone.

A trial's config is read back from its command line as `train.py` reads it, so
that the command repeats the trial.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from launch import hyper
from moe.command_line import load_config, load_module
from moe.config import ConfigError, Text, changed, differences
from moe.metrics import newest_metrics
from moe.training import history
from moe.workloads import registry

_SLURM = 'slurm.'
_LONGEST = 120  # characters of a trial's name, the name of its folder


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
      name: unique name, the last part of the folder.
      changes: changed values by dotted name below config.
      plain: the whole config, checked, plain data.
      folder: the run's workdir.
      command: arguments of the Python interpreter.
      slurm: options of the backend `slurm` that are the trial's own.
    """

    name: str
    changes: Mapping[str, Any]
    plain: dict[str, Any]
    folder: pathlib.Path
    command: tuple[str, ...]
    slurm: Mapping[str, Any] = dataclasses.field(
        default_factory=dict, kw_only=True
    )

    def newest(self) -> Mapping[str, Any]:
        """Returns the last logged metrics, {} before the first."""
        path = self.folder / 'metrics.jsonl'
        return newest_metrics(path) if path.exists() else {}

    def step(self) -> int:
        """Returns the number of the last logged step, 0 before the first."""
        return self.newest().get('step', 0)

    def done(self) -> bool:
        """Whether it has trained to its last step and written its results."""
        early = history.ended_early(self.folder)
        if self.step() < self.plain['steps'] and not early:
            return False
        workload = registry.read_config(self.plain).make_workload()
        return history.is_finished(
            self.folder, workload.final_file, self.plain['steps']
        )


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Trials that differ in some fields.

    Attributes:
      config: FILE[:VARIANT].
      base: the config without the trials' changes, with the command line's
        overrides.
      fields: dotted names of fields that differ between trials, sorted.
      trials: in the order of the file.
    """

    config: str
    base: dict[str, Any]
    fields: tuple[str, ...]
    trials: tuple[Trial, ...]


def read_sweep(
    config: str, overrides: Mapping[str, Any], workdir: pathlib.Path
) -> Sweep:
    """Reads a sweep and checks the config of every trial.

    Args:
      config: FILE[:VARIANT].
      overrides: values for all trials, by dotted name below config.
      workdir: folder of the sweep; a trial's folder is `workdir/NAME`.

    Returns:
      The sweep.

    Raises:
      ConfigError: for a file without a sweep, two equal trials, an override of
        what the sweep changes, or a trial whose config cannot be used.
    """
    bare = load_config(config)
    given, resources = _without_resources(_defined(config))
    for changes in given:
        for name in changes:
            for other in overrides:
                if _within(name, other) or _within(other, name):
                    allowed = f'absent: the sweep changes config.{name}'
                    field = f'--config.{other}'
                    raise ConfigError(field, overrides[other], allowed)
    base = _base(bare, overrides)
    trials, plains = [], []
    problems: list[ConfigError | None] = []
    for changes in given:
        try:
            found = registry.read_config(bare, {**overrides, **changes}.items())
            plains.append(registry.plain_of(found))
            problems.append(None)
        except ConfigError as error:
            try:
                plains.append(changed(base, changes))
            except TypeError:  # a field of what is no section
                plains.append(base)
            problems.append(error)
    fields = _varying(given, plains)
    names = _names(fields, plains)
    rows = zip(names, given, plains, problems, resources, strict=True)
    for name, changes, plain, problem, own in rows:
        try:
            if problem:
                raise problem
            every = {**overrides, **changes}
            flags = [f'--config.{n}={literal(v)}' for n, v in every.items()]
            _check_flags(bare, flags, plain)
        except ConfigError as error:
            field = f'trial {name}: {error.field}'
            raise ConfigError(field, error.value, error.allowed) from None
        folder = workdir / name
        command = (
            'train.py',
            f'--config={config}',
            *flags,
            f'--workdir={folder}',
        )
        trials.append(Trial(name, changes, plain, folder, command, slurm=own))
    return Sweep(config, base, fields, tuple(trials))


def _without_resources(
    given: Sequence[Mapping[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the changes of configs, and the options of SLURM, by trial."""
    changes = [
        {n: v for n, v in one.items() if not n.startswith(_SLURM)}
        for one in given
    ]
    options = [
        {
            n.removeprefix(_SLURM): v
            for n, v in one.items()
            if n.startswith(_SLURM)
        }
        for one in given
    ]
    return changes, options


def _base(
    bare: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the config without changes, parsed if it is valid."""
    try:
        found = registry.read_config(bare, overrides.items())
        return registry.plain_of(found)
    except ConfigError:
        return registry.complete(bare, overrides.items())


def _check_flags(
    bare: Mapping[str, Any], arguments: Sequence[str], plain: Mapping[str, Any]
) -> None:
    """Checks that a trial's command line gives its config."""
    for text in arguments:
        if '\0' in text:
            field, _, value = text.partition('=')
            raise ConfigError(field, value, 'without NUL, as every argument is')
    texts = [a.removeprefix('--config.').partition('=') for a in arguments]
    overrides = [(name, Text(text)) for name, _, text in texts]
    found = registry.plain_of(registry.read_config(bare, overrides))
    for difference in differences(plain, found):
        where, _, values = difference.partition(': ')
        raise ConfigError(where, values, 'what a flag can give')


def _defined(config: str) -> list[dict[str, Any]]:
    """Returns the changes of every trial that the file defines."""
    path = config.partition(':')[0]
    module = load_module(path)
    known: dict[str, Callable[[Any], Iterable]] = {
        'sweep': lambda define: define(),
        'get_hyper': lambda define: define(hyper),
    }
    found = [name for name in known if hasattr(module, name)]
    if len(found) != 1:
        allowed = 'a file with one of sweep() and get_hyper(hyper)'
        raise ConfigError('--config', path, allowed)
    define = getattr(module, found[0])
    try:
        given = [dict(changes) for changes in known[found[0]](define)]
        result = [
            {
                name.removeprefix('config.'): _plain(value)
                for name, value in changes.items()
            }
            for changes in given
        ]
    except ConfigError:
        raise
    except Exception as error:  # of the user's own function
        what = f'{type(error).__name__}: {error}'
        allowed = 'an iterable of dictionaries, from field to value'
        raise ConfigError(f'{path}: {found[0]}', what, allowed) from None
    if not result:
        raise ConfigError(f'{path}: {found[0]}', result, 'a trial or more')
    return result


def _plain(value: Any) -> Any:
    """Converts a value that a file yields to plain data."""
    if isinstance(value, ml_collections.ConfigDict):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_plain(v) for v in value)
    return value.item() if isinstance(value, np.generic) else value


def _within(inner: str, outer: str) -> bool:
    """Whether a field equals another, or is inside it."""
    return f'{inner}.'.startswith(f'{outer}.')


_ABSENT = object()


def value_of(plain: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """Returns the value of a field.

    Args:
      plain: the config, plain data.
      name: dotted name of the field.
      default: result for an absent field.
    """
    value: Any = plain
    for part in name.split('.'):
        if not isinstance(value, Mapping) or part not in value:
            return default
        value = value[part]
    return value


def literal(value: Any, quoted: bool = False) -> str:
    """Returns a value as the text of a flag.

    Args:
      value: plain data.
      quoted: whether a string stands inside another value.

    >>> literal('top_k'), literal({'name': 'top_k', 'k': 2}), literal(None)
    ('top_k', '{"name": "top_k", "k": 2}', 'None')
    """
    if isinstance(value, Mapping):
        if set(value) == {'name'} and not quoted:
            return str(value['name'])
        items = (
            f'{literal(k, True)}: {literal(v, True)}' for k, v in value.items()
        )
        return '{' + ', '.join(items) + '}'
    if isinstance(value, (tuple, list)):
        items = (literal(v, True) for v in value)
        return '(' + ''.join(f'{item}, ' for item in items).rstrip(' ') + ')'
    if isinstance(value, str) and quoted:
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _varying(
    given: Sequence[Mapping], plains: Sequence[Mapping]
) -> tuple[str, ...]:
    """Returns the changed fields whose values differ between trials, sorted."""
    names = sorted({name for changes in given for name in changes})
    return tuple(
        name
        for name in names
        if len({_key(value_of(plain, name, _ABSENT)) for plain in plains}) > 1
    )


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def labels(fields: Sequence[str]) -> dict[str, str]:
    """Returns short names of fields: the last parts that make them unique.

    >>> labels(['model.moe.router.name', 'seed', 'a.k', 'b.k'])
    {'model.moe.router.name': 'router', 'seed': 'seed', 'a.k': 'a.k', 'b.k': \
'b.k'}
    """
    whole = {name: name.removesuffix('.name').split('.') for name in fields}
    result = {}
    for name, parts in whole.items():
        for size in range(1, len(parts) + 1):
            short = parts[-size:]
            same = [n for n, p in whole.items() if p[-size:] == short]
            if same == [name]:
                break
        else:
            short = name.split('.')
        result[name] = '.'.join(short)
    return result


def text_of(value: Any, others: Sequence[Any] = ()) -> str:
    """Returns a short text of a value; of a section its name and differences.

    Args:
      value: value of a field.
      others: all values of the field.

    >>> two, one = {'name': 'top_k', 'k': 2}, {'name': 'top_k', 'k': 1}
    >>> text_of(two), text_of(two, [two, one]), text_of(1e-5)
    ('top_k', 'top_k-k2', '1e-05')
    """
    if not isinstance(value, Mapping):
        return str(value)
    alike = [
        other
        for other in others
        if isinstance(other, Mapping) and other.get('name') == value.get('name')
    ]
    differ = [
        f'{name}{text_of(value[name])}'
        for name in sorted(value)
        if any(_key(o.get(name)) != _key(value[name]) for o in alike)
    ]
    return '-'.join([str(value[n]) for n in ('name',) if n in value] + differ)


def _names(
    fields: Sequence[str], plains: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Returns the names of the trials, which do not depend on their order."""
    short = labels(fields)
    texts = []
    for plain in plains:
        parts = []
        for field in fields:
            value = value_of(plain, field, _ABSENT)
            if value is not _ABSENT:
                others = [value_of(p, field) for p in plains]
                parts.append(f'{short[field]}={text_of(value, others)}')
        text = re.sub(r'[^\w.+=,-]+', '-', ','.join(parts), flags=re.ASCII)
        texts.append(text.lstrip('.-') or 'trial')
    result = []
    for text, plain in zip(texts, plains, strict=True):
        if texts.count(text) > 1 or len(text) > _LONGEST:
            digest = hashlib.sha256(_key(plain).encode()).hexdigest()[:8]
            text = f'{text[:_LONGEST]}-{digest}'
        result.append(text)
    for name in result:
        if result.count(name) > 1:
            raise ConfigError(f'trial {name}', 'twice', 'given once')
    return result

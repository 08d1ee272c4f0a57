"""The description of a run in its folder: `config.json` and `data.json`.

`config.json` is the resolved config with every field, `data.json` identifies
the data. Neither has code: a run's folder is data.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from moe import files
from moe.config import ConfigError, differences, different, parse, to_plain
from moe.paths import check_local, read_json
from moe.training import changes, history

# Of config.json and of checkpoints. It goes up when a file of an earlier
# format can no longer be read as it is; a new field with a default is no new
# format.
FORMAT = 2

CONFIG, DATA = 'config.json', 'data.json'


def write_description(
    workdir: pathlib.Path, plain: Mapping[str, Any], data: Mapping[str, Any]
) -> None:
    """Writes `config.json` and `data.json`.

    Args:
      workdir: the run's folder, made if absent.
      plain: the run's config, plain data.
      data: the description of `Workload.describe_data`.

    Raises:
      ConfigError: if the folder cannot be made.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        allowed = f'a folder, or the name of a new one ({error.strerror})'
        raise ConfigError('workdir', str(workdir), allowed) from None
    write_plain_config(workdir, plain)
    _write_json(workdir / DATA, data)


def write_plain_config(workdir: pathlib.Path, plain: Mapping[str, Any]) -> None:
    """Writes `config.json`, with its format, into a folder that exists.

    Args:
      workdir: the run's folder.
      plain: the run's config, plain data.
    """
    _write_json(workdir / CONFIG, {'format': FORMAT, **plain})


def _write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
    files.write_text(path, json.dumps(value, indent=2) + '\n')


def read_plain_config(workdir: pathlib.Path) -> dict[str, Any]:
    """Reads the config of a run as it was written.

    Args:
      workdir: the run's folder.

    Returns:
      Plain data, without the format. Fields newer than the run are absent.

    Raises:
      ConfigError: for a folder without a config that can be read, one of
        before there were formats, or one of a newer format.
    """
    check_local(workdir)
    if not (workdir / CONFIG).exists():
        raise ConfigError('workdir', str(workdir), "a run's folder")
    plain = read_json(workdir / CONFIG)
    check_format(plain.pop('format', None), workdir)
    return _renamed(plain)


def _renamed(plain: dict[str, Any]) -> dict[str, Any]:
    """Returns a config with today's names of fields that had others."""
    model = plain.get('model')
    if isinstance(model, Mapping) and 'rope_theta' in model:
        theta = model['rope_theta']
        rope = None if theta is None else {'theta': theta}
        model = {k: v for k, v in model.items() if k != 'rope_theta'}
        plain = {**plain, 'model': {**model, 'rope': rope}}
    return plain


def check_format(found: Any, workdir: pathlib.Path) -> None:
    """Refuses files of a format that this version does not read.

    Args:
      found: the format in a file; None if it has none.
      workdir: the run's folder.

    Raises:
      ConfigError: if it is another than `FORMAT`.
    """
    if found == FORMAT:
        return
    if found is None:
        allowed = (
            'a new folder: its run is from before format 2, in which '
            'config.task became config.workload and other fields were renamed'
        )
    else:
        allowed = f'a run of format {FORMAT} (it is {found!r}; update first)'
    raise ConfigError('workdir', str(workdir), allowed)


def check_same_config(workdir: pathlib.Path, config: Any) -> dict[str, Any]:
    """Refuses a folder whose run has another config.

    A field newer than the earlier run has its default there. Some fields may
    change, see `moe.training.history`.

    Args:
      workdir: the run's folder, which need not exist.
      config: config of the run that is to continue there.

    Returns:
      Old and new value of every field that changes, by its dotted name.

    Raises:
      ConfigError: if any other field differs; it names all of them.
    """
    if not (workdir / CONFIG).exists():
        return {}
    earlier, schema = read_plain_config(workdir), type(config)
    now = to_plain(schema, config)
    # Another workload has other fields, and need not be parsed.
    if earlier.get('workload') != now.get('workload'):
        _refuse(workdir, list(differences(earlier, now)))
    try:
        parsed = parse(schema, earlier)
    except ConfigError as error:
        allowed = f'a new folder, or one of the same run: {error}'
        raise ConfigError('workdir', str(workdir), allowed) from None
    past = changes.Past(workdir, history.read(workdir), parsed, config)
    found, lines = list(different(to_plain(schema, parsed), now)), []
    for name, old, new in found:
        instead = changes.remedy(name, old, new, past)
        if instead is not None:
            line = f'config.{name}: {old!r} there, {new!r} now'
            lines.append(line + (f' ({instead})' if instead else ''))
    if lines:
        lines[-1] += ', and config.init_from takes parameters to a new folder'
    _refuse(workdir, lines)
    return {name: [old, new] for name, old, new in found}


def check_same_data(workdir: pathlib.Path, now: Mapping[str, Any]) -> None:
    """Refuses a folder whose run was on other data.

    Args:
      workdir: the run's folder, which need not exist.
      now: the description of `Workload.describe_data`.

    Raises:
      ConfigError: if the data differ; it names all differences.
    """
    path = workdir / DATA
    if path.exists():
        earlier = read_json(path)
        _refuse(workdir, list(differences(earlier, now, 'data')))


def _refuse(workdir: pathlib.Path, lines: Sequence[str]) -> None:
    if lines:
        told = '; '.join(lines)
        allowed = f'a new folder, or one of the same run: {told}'
        raise ConfigError('workdir', str(workdir), allowed)

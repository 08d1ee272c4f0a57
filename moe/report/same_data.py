"""Whether runs that are compared were on the same data."""

import pathlib
from collections.abc import Mapping

from moe.config import ConfigError
from moe.paths import read_json


def different_data(folders: Mapping[str, pathlib.Path]) -> str:
    """Returns a sentence about runs on different data, '' if it is the same.

    Data differ if their fingerprints do: other contents, another tokenizer or
    another split.

    Args:
      folders: folders of runs by label; those without `data.json` are left
        out.
    """
    found: dict[str, list[str]] = {}
    for label, folder in folders.items():
        try:
            described = read_json(folder / 'data.json')
        except (ConfigError, OSError):
            continue
        if 'fingerprint' in described:
            found.setdefault(str(described['fingerprint']), []).append(label)
    if len(found) < 2:
        return ''
    groups = '; '.join(
        f'{", ".join(labels)} on {fingerprint}'
        for fingerprint, labels in found.items()
    )
    return f'These runs are on different data, or on other splits: {groups}.'

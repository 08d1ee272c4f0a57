"""What travels with an imported model: its `config.json`, its tokenizer.

They are in `published/` of the run's folder, with the dtype of each tensor, and
an export takes them from there: of the run itself, or of the run that it was
started from.
"""

import collections
import json
import pathlib
import re
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

from moe import files
from moe.checkpoints.hf.quantized import Tensor
from moe.config import ConfigError
from moe.paths import read_json
from moe.training.folder import CONFIG
from moe.training.init_from import InitFrom

FOLDER, _DTYPES = 'published', 'dtypes.json'
TOKENIZER = 'tokenizer.json'
_FILES = (
    TOKENIZER,
    'added_tokens.json',
    'chat_template.jinja',
    'chat_template.json',
    'generation_config.json',
    'merges.txt',
    'special_tokens_map.json',
    'tiktoken.model',
    'tokenizer.model',
    'tokenizer_config.json',
    'vocab.json',
)


class Traveling(NamedTuple):
    """What an imported model was published with.

    Attributes:
      folder: the folder that has it.
      config: the `config.json`.
      dtypes: the dtype of tensors in the files by their names, in which `*`
        stands for any number.
    """

    folder: pathlib.Path
    config: dict[str, Any]
    dtypes: dict[str, str]

    def dtype_of(self, name: str) -> str | None:
        """Returns the dtype that a tensor had, None if it is unknown.

        Args:
          name: the published name of the tensor.
        """
        return self.dtypes.get(name, self.dtypes.get(_pattern(name)))


def _pattern(name: str) -> str:
    return re.sub(r'(?<=\.)\d+(?=\.)', '*', name)


def keep(
    source: pathlib.Path,
    workdir: pathlib.Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    """Copies what travels into a run's folder.

    Args:
      source: the folder of the published checkpoint.
      workdir: the run's folder, which exists.
      config: its `config.json`.
      tensors: its tensors.
    """
    folder = workdir / FOLDER
    folder.mkdir(exist_ok=True)
    _write(folder / CONFIG, config)
    kinds = collections.defaultdict(set)
    for name, tensor in tensors.items():
        kinds[_pattern(name)].add(tensor.dtype)
    dtypes = {n: next(iter(found)) for n, found in kinds.items()}
    for name, tensor in tensors.items():
        if len(kinds[_pattern(name)]) > 1:
            dtypes.pop(_pattern(name), None)
            dtypes[name] = tensor.dtype
    _write(folder / _DTYPES, dtypes)
    copy_tokenizer(source, folder)


def _write(path: pathlib.Path, value: Mapping[str, Any]) -> None:
    files.write_text(path, json.dumps(value, indent=2) + '\n')


def copy_tokenizer(source: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies the files of a tokenizer, and those of generation.

    Args:
      source: the folder that may have them.
      folder: the folder that gets them.
    """
    for name in _FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def find(workdir: pathlib.Path) -> Traveling | None:
    """Returns what travels with a run, or with the run that it began from.

    Args:
      workdir: the run's folder.
    """
    seen: set[pathlib.Path] = set()
    while workdir not in seen:
        seen.add(workdir)
        folder = workdir / FOLDER
        if (folder / CONFIG).is_file():
            config, dtypes = folder / CONFIG, folder / _DTYPES
            return Traveling(folder, read_json(config), read_json(dtypes))
        try:
            given = read_json(workdir / CONFIG).get('init_from')
        except (ConfigError, OSError):
            return None
        if not isinstance(given, Mapping):
            return None
        workdir = InitFrom(run=given['run']).folder
    return None

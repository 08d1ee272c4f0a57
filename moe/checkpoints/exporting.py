"""`moe.checkpoints export RUN[:STEP] --output=DIR`: a run, for others."""

import json
import pathlib
import re
from typing import Any

import jax
import numpy as np
from absl import flags

from moe import files
from moe.checkpoints.hf import travel
from moe.checkpoints.hf.families import FAMILIES, Family
from moe.checkpoints.hf.files import DTYPES, write_tensors
from moe.checkpoints.hf.runs import complete_config, same_model
from moe.checkpoints.hf.tensors import published
from moe.checkpoints.hf.write import plan
from moe.command_line import define_plugins
from moe.config import ConfigError
from moe.parallel import with_shardings
from moe.paths import check_local
from moe.training.checksum import leaf_names
from moe.training.config import Config
from moe.training.init_from import InitFrom
from moe.training.restore import (
    check_step,
    list_checkpoints,
    restore_newest,
    restore_variables,
)
from moe.training.step import init_state
from moe.workloads import registry

FLAGS = flags.FlagValues()
flags.DEFINE_string(
    'format', 'hf', 'hf: config.json and safetensors.', flag_values=FLAGS
)
flags.DEFINE_string('output', None, 'The new folder.', flag_values=FLAGS)
flags.DEFINE_string(
    'family',
    None,
    'The model_type; None is that of the import, or the only one that fits.',
    flag_values=FLAGS,
)
flags.DEFINE_string(
    'dtype',
    None,
    'Dtype of all tensors: float32, bfloat16 or float16; None is that of the '
    'import, or of the run.',
    flag_values=FLAGS,
)
flags.DEFINE_string(
    'shard_size', '5GB', 'Most bytes of a file, as 500MB.', flag_values=FLAGS
)
define_plugins(FLAGS)

_UNITS = {'': 1, 'B': 1, 'KB': 10**3, 'MB': 10**6, 'GB': 10**9}
_NAMES = {'float32': 'F32', 'bfloat16': 'BF16', 'float16': 'F16'}


def folder_of(given: pathlib.Path) -> pathlib.Path:
    """Returns the run's folder.

    Args:
      given: the folder, or FOLDER:STEP.
    """
    return InitFrom(run=str(given)).folder


def run(workdir: pathlib.Path) -> int:
    """Writes a checkpoint of a run as `transformers` reads it; returns 0.

    Args:
      workdir: the run's folder, or FOLDER:STEP.

    Raises:
      ConfigError: for a run that no family is like, or an output that exists.
      Damaged: if the checkpoint is damaged.
    """
    source = InitFrom(run=str(workdir))
    workdir = source.folder
    if not FLAGS.output:
        raise ConfigError('--output', FLAGS.output, 'given')
    output = pathlib.Path(FLAGS.output)
    check_local(output, '--output')
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError('--output', FLAGS.output, 'a new folder')
    if FLAGS.format != 'hf':
        raise ConfigError('--format', FLAGS.format, "'hf'")
    if FLAGS.dtype not in (None, *_NAMES):
        raise ConfigError('--dtype', FLAGS.dtype, f'one of {", ".join(_NAMES)}')
    shard_size = _bytes(FLAGS.shard_size)
    config = registry.read_run(workdir, FLAGS.plugins)
    if config.workload != 'lm':
        raise ConfigError('DIR', str(workdir), 'that of a language model')
    shapes, leaves = _leaves(config)
    traveling = travel.find(workdir)
    family = _family(config, traveling, leaves)
    written = complete_config(
        family,
        registry.plain_of(config)['model'],
        traveling and traveling.config,
        config.data.seq_len,
    )
    step, values = _restored(config, workdir, source.step, shapes)
    tensors = published(family.rows, config.model, leaves)
    planned = plan(tensors, values, lambda n, own: _dtype_of(n, own, traveling))
    dtypes = [one.dtype for one in planned]
    # As transformers 4 has it, and 5 reads.
    old = traveling and 'torch_dtype' in traveling.config
    name = max(set(dtypes), key=dtypes.count).name
    written['torch_dtype' if old else 'dtype'] = name
    output.mkdir(parents=True, exist_ok=True)
    names = write_tensors(output, planned, shard_size)
    if traveling:
        travel.copy_tokenizer(traveling.folder, output)
    else:
        _own_tokenizer(config, output)
    text = json.dumps(dict(sorted(written.items())), indent=2)
    files.write_text(output / 'config.json', text + '\n')
    print(
        f'{family.name}: {len(planned)} tensors of step {step} in '
        f'{len(names)} file(s) of {output}'
    )
    return 0


def _bytes(text: str) -> int:
    found = re.fullmatch(r'(\d+)\s*([A-Z]*)', text.strip().upper())
    if not found or found[2] not in _UNITS or not int(found[1]):
        raise ConfigError('--shard_size', text, 'a size such as 5GB or 500MB')
    return int(found[1]) * _UNITS[found[2]]


def _leaves(config: Config) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """Returns the shapes of the state, and those of its variables by name."""
    shapes = jax.eval_shape(lambda: init_state(config))
    own = {'params': shapes.params, 'model_state': shapes.model_state}
    names, found = leaf_names(own), jax.tree.leaves(own)
    return shapes, {n: leaf.shape for n, leaf in zip(names, found, strict=True)}


def _family(config: Config, traveling: Any, leaves: Any) -> Family:
    """Returns the family to write: named, of the import, or the only one."""
    if FLAGS.family is not None:
        if FLAGS.family not in FAMILIES:
            allowed = f'one of {", ".join(FAMILIES)}'
            raise ConfigError('--family', FLAGS.family, allowed)
        return FAMILIES[FLAGS.family]
    if traveling:
        for family in FAMILIES.values():
            types = (family.name, *family.other_types)
            if traveling.config.get('model_type') in types:
                return family
    model, found = registry.plain_of(config)['model'], []
    refusals = {}
    for name, family in FAMILIES.items():
        try:
            same_model(family, family.write_config(model), model)
            published(family.rows, config.model, leaves)
            found.append(name)
        except ConfigError as error:
            refusals[name] = error
    if len(found) != 1:
        allowed = f'one of {", ".join(found)}, which fit alike'
        if not found:
            why = '; '.join(f'{n}: {e.field}' for n, e in refusals.items())
            allowed = f'one of {", ".join(FAMILIES)}, but none fits ({why})'
        raise ConfigError('--family', None, allowed)
    return FAMILIES[found[0]]


def _restored(
    config: Config, workdir: pathlib.Path, step: int | None, shapes: Any
) -> tuple[int, dict[str, np.ndarray]]:
    """Returns the step that was read, and its variables by name."""
    entries = list_checkpoints(workdir)
    if not entries:
        allowed = 'the folder of a run with a checkpoint'
        raise ConfigError('DIR', str(workdir), allowed)
    check_step(step, sorted({entry.step for entry in entries}))
    if step is not None:
        entries = [entry for entry in entries if entry.step == step]
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = with_shardings(shapes, jax.tree.map(lambda _: device, shapes))

    def read(path):
        return path, restore_variables(path, like)

    (path, variables), _ = restore_newest(workdir, entries, read)
    params = variables.pop('params')
    tree = {'params': params, 'model_state': variables}
    values = map(np.asarray, jax.tree.leaves(tree))
    names = leaf_names(tree)
    at = next(entry.step for entry in entries if entry.path == path)
    return at, dict(zip(names, values, strict=True))


def _dtype_of(name: str, own: np.dtype, traveling: Any) -> np.dtype:
    """Returns the dtype of a tensor in the files."""
    stored = traveling.dtype_of(name) if traveling else None
    if FLAGS.dtype:
        return DTYPES[_NAMES[FLAGS.dtype]]
    if stored is None:
        return own
    # What was dequantised is computed in bfloat16.
    return DTYPES.get(stored, DTYPES['BF16'])


def _own_tokenizer(config: Config, output: pathlib.Path) -> None:
    """Copies the tokenizer of the run's data, if it has one in a file."""
    path = pathlib.Path(getattr(config.data.source, 'tokenizer', '') or '')
    if path.is_dir():
        path = path / travel.TOKENIZER
    if path.name and path.is_file():
        (output / travel.TOKENIZER).write_bytes(path.read_bytes())

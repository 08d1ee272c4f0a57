"""From a family's model to the config of a run, and back."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from moe.checkpoints.hf.family import Family
from moe.checkpoints.hf.rope import ROPE, as_before
from moe.config import ConfigError, different
from moe.workloads.registry import plain_of, read_config

# Fields of the section `model` that say how it is computed, not what.
_HOW = (
    'attention',
    'dense.dropout',
    'dropout',
    'dtype',
    'mtp',
    'param_dtype',
    'remat',
    'stochastic_depth',
    'moe.allow_lookahead',
    'moe.communication',
    'moe.dispatcher',
    'moe.experts.dropout',
    'moe.jitter',
    'moe.losses',
    'moe.num_groups',
    'moe.router.balance',
    'moe.router.noise',
    'moe.shared.network.dropout',
)


def plain_config(
    model: Mapping[str, Any], tokenizer: str, length: int, batch: int = 1
) -> dict[str, Any]:
    """Returns the plain config of a run of an imported model.

    It has no data: those are given to what trains or evaluates it.

    Args:
      model: the section `model`.
      tokenizer: path of its `tokenizer.json`; '' without one.
      length: most positions that it is for.
      batch: number of sequences of a batch, which the devices share.
    """
    source: dict[str, Any] = {'name': 'array', 'tokenizer': tokenizer}
    return {
        'workload': 'lm',
        'model': dict(model),
        'data': {'source': source, 'seq_len': length, 'batch_size': batch},
        # Of its moments, which no run takes from here, there are few.
        'optimizer': {'name': 'adafactor'},
        'sample_prompt': '',
        'sample_length': 0,
    }


def complete_config(
    family: Family,
    model: Mapping[str, Any],
    before: Mapping[str, Any] | None,
    length: int,
) -> dict[str, Any]:
    """Returns the `config.json` of a run.

    Args:
      family: the family.
      model: the section `model` of the run, plain, with all its fields.
      before: the `config.json` that was imported, whose other fields are
        taken; None without one.
      length: most positions that it is for, if that does not say it.

    Raises:
      ConfigError: for a model that the family does not have.
    """
    gone = {*family.aliases, *ROPE, 'quantization_config', 'torch_dtype'}
    found = {'max_position_embeddings': length}
    found |= {n: v for n, v in (before or {}).items() if n not in gone}
    found |= family.write_config(model)
    if before and before.get('model_type') in family.other_types:
        found['model_type'] = before['model_type']
    if before:
        found = as_before(found, before)
    same_model(family, found, model)
    return found


def same_model(family: Family, given: Mapping[str, Any], model: Any) -> None:
    """Refuses a model that a written `config.json` does not describe.

    Args:
      family: the family.
      given: the `config.json`.
      model: the section `model` of the run, plain, with all its fields.

    Raises:
      ConfigError: for the first field that would be another when read back.
    """
    read = read_config(plain_config(family.read_config(given), '', 128))
    back = plain_of(read)['model']
    for name, theirs, ours in different(
        _what(back, model), _what(model, model)
    ):
        if _equal(theirs, ours):
            continue
        allowed = f'{theirs!r} in the family {family.name}'
        raise ConfigError(f'config.model.{name}', ours, allowed)


def _what(model: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a section without what changes nothing in a model of `own`."""
    found = {**_without(model, _HOW), **_defaults(model)}
    if not own['moe_every']:
        del found['moe']
    elif not dense_layers(own):
        del found['dense']
    if own.get('latent') is not None:
        for name in ('head_dim', 'num_kv_heads'):
            found.pop(name, None)
    return found


def _defaults(model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of fields for which None stands, in full."""
    width = model['head_dim'] or model['d_model'] // model['num_heads']
    layers, windows = model['num_layers'], model.get('window_layers')
    found = {
        'head_dim': width,
        'embedding_scale': model['d_model'] ** 0.5,
        'residual_scale': 1.0,
        'logit_scale': 1.0,
        'window_layers': list(range(layers)) if windows is None else windows,
    }
    latent = model.get('latent')
    if latent is not None:
        width = latent['nope_dim'] + latent['rope_dim']
    found['attention_scale'] = width**-0.5
    if model.get('sliding_window') is None:
        return {**_given(found, model), 'window_layers': ()}
    return _given(found, model)


def _given(
    defaults: Mapping[str, Any], model: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns defaults, with the values of a section that are not None."""
    return {
        name: value if model.get(name) is None else model[name]
        for name, value in defaults.items()
    }


def dense_layers(model: Mapping[str, Any]) -> list[int]:
    """Returns the layers of a plain section `model` that have no mixture."""
    every, dense = model['moe_every'], set(model['dense_layers'])
    layers = range(model['num_layers'])
    return [i for i in layers if not every or (i + 1) % every or i in dense]


def _without(
    section: Mapping[str, Any], names: Sequence[str]
) -> dict[str, Any]:
    found = {}
    for name, value in section.items():
        if name in names:
            continue
        inner = [n.partition('.')[2] for n in names if n.startswith(f'{name}.')]
        if inner and isinstance(value, Mapping):
            value = _without(value, inner)
        found[name] = value
    return found


def _equal(a: Any, b: Any) -> bool:
    """Whether two values are the same but for the rounding of a division."""
    numbers = isinstance(a, (int, float)) and isinstance(b, (int, float))
    return numbers and math.isclose(a, b, rel_tol=1e-12)

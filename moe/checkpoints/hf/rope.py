"""The entry of rotary positions, in the forms of transformers 4 and 5.

transformers 5 has all in `rope_parameters`; transformers 4 has `rope_theta`,
`rope_scaling` and `partial_rotary_factor` beside each other.
"""

import math
from collections.abc import Mapping
from typing import Any

from moe.checkpoints.hf.fields import Entry, Model
from moe.config import ConfigError

# The fields that say how positions turn.
ROPE = (
    'rope_parameters',
    'rope_scaling',
    'rope_theta',
    'partial_rotary_factor',
    'original_max_position_embeddings',
)
# Options of each scaling, ours by theirs; those of the second have defaults.
_OPTIONS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    'default': ({}, {}),
    'linear': ({'factor': 'factor'}, {}),
    'llama3': (
        {
            'factor': 'factor',
            'low_freq_factor': 'low_freq_factor',
            'high_freq_factor': 'high_freq_factor',
            'original_max_position_embeddings': 'original_length',
        },
        {},
    ),
    'yarn': (
        {
            'factor': 'factor',
            'original_max_position_embeddings': 'original_length',
            'beta_fast': 'beta_fast',
            'beta_slow': 'beta_slow',
            'mscale': 'mscale',
            'mscale_all_dim': 'mscale_all_dim',
            'attention_factor': 'attention_factor',
            'truncate': 'truncate',
        },
        {
            'beta_fast': 32.0,
            'beta_slow': 1.0,
            'mscale': None,
            'mscale_all_dim': None,
            'attention_factor': None,
            'truncate': True,
        },
    ),
}


def rope(
    *,
    partial: bool = False,
    interleave: str | bool = False,
    mscale: bool = False,
) -> Entry:
    """Returns the entry of rotary positions.

    Args:
      partial: whether a part of each head may turn alone.
      interleave: whether pairs are columns next to each other, or the field
        that says so.
      mscale: whether `mscale_all_dim` changes the scale of attention too, as in
        DeepSeek's models.
    """
    own = (interleave,) if isinstance(interleave, str) else ()

    def read(given):
        found = _read(given)
        share = found.pop('partial_rotary_factor', None)
        if share not in (None, 1, 1.0) and not partial:
            allowed = '1.0 in this family'
            raise ConfigError('partial_rotary_factor', share, allowed)
        pairs = given.get(own[0]) if own else interleave
        section: dict[str, Any] = {
            'theta': float(found.pop('rope_theta')),
            'share': 1.0 if share is None else float(share),
            'interleaved': bool(pairs),
            'scaling': _scaling(found, given),
        }
        scale = _softmax_scale(section['scaling'], given) if mscale else {}
        return {'rope': section, **scale}

    def write(model):
        section = model['rope']
        if section is None:
            raise ConfigError('config.model.rope', None, 'a section')
        found: dict[str, Any] = {'rope_theta': section['theta']}
        if partial:
            found['partial_rotary_factor'] = section['share']
        found |= _written(section['scaling'])
        pairs = {own[0]: section['interleaved']} if own else {}
        return {'rope_parameters': found, **pairs}

    return Entry((*ROPE, *own), read, write)


def _read(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all that is said of rotation, as transformers 5 has it."""
    old, new = given.get('rope_scaling'), given.get('rope_parameters')
    found = dict(old or new or {})
    for value in found.values():
        if isinstance(value, Mapping):
            field = 'rope_parameters'
            raise ConfigError(field, found, 'the same for all layers')
    for name in ('rope_theta', 'partial_rotary_factor'):
        if given.get(name) is not None:
            found.setdefault(name, given[name])
    kind = found.pop('type', None)
    found.setdefault('rope_type', kind or 'default')
    return found


def _softmax_scale(scaling: Model, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the scale of attention, which DeepSeek changes with YaRN.

    `m = 0.1 * mscale_all_dim * ln(factor) + 1`, and the scale is `m^2` over the
    root of a head's width. Source: DeepSeek-V3's own `modeling_deepseek.py`.
    """
    part = scaling.get('mscale_all_dim')
    if not part or scaling['factor'] <= 1:
        return {'attention_scale': None}
    width = given['qk_nope_head_dim'] + given['qk_rope_head_dim']
    m = 0.1 * part * math.log(scaling['factor']) + 1.0
    return {'attention_scale': m * m / math.sqrt(width)}


def _scaling(found: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the section of a scaling."""
    kind = found.pop('rope_type')
    if kind not in _OPTIONS:
        allowed = f'one of {", ".join(_OPTIONS)}'
        raise ConfigError('rope_parameters.rope_type', kind, allowed)
    names, defaults = _OPTIONS[kind]
    length = 'original_max_position_embeddings'
    if length in names:
        longest = given.get('max_position_embeddings')
        found.setdefault(length, longest)
        if given.get(length) is not None:
            found[length] = given[length]
        if found.get('factor') is None and longest:
            found['factor'] = longest / found[length]
    given_here = {
        **defaults,
        **{n: v for n, v in found.items() if v is not None},
    }
    for name, value in given_here.items():
        if name not in names:
            allowed = f'absent with rope_type {kind!r}'
            raise ConfigError(f'rope_parameters.{name}', value, allowed)
    section: dict[str, Any] = {'name': 'none' if kind == 'default' else kind}
    for theirs, ours in names.items():
        if theirs not in given_here:
            raise ConfigError(f'rope_parameters.{theirs}', None, 'given')
        section[ours] = given_here[theirs]
    return section


def _written(section: Model) -> dict[str, Any]:
    """Returns the fields of a scaling."""
    name = section['name']
    kind = 'default' if name == 'none' else name
    if kind not in _OPTIONS:
        allowed = f'one of none, {", ".join(list(_OPTIONS)[1:])}'
        raise ConfigError('config.model.rope.scaling.name', name, allowed)
    found = {
        theirs: section[ours]
        for theirs, ours in _OPTIONS[kind][0].items()
        if section[ours] is not None
        # What transformers 4 does not know is written where it is needed.
        and not (theirs == 'truncate' and section[ours])
    }
    return {'rope_type': kind, **found}


def as_before(
    found: Mapping[str, Any], before: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns a `config.json` in the form of transformers 4, if one was so.

    Args:
      found: the `config.json`, in the form of transformers 5.
      before: the one that was imported.
    """
    if before.get('rope_parameters') is not None:
        return dict(found)
    fields = dict(found)
    scaling = dict(fields.pop('rope_parameters'))
    for name in ('rope_theta', 'partial_rotary_factor'):
        if name in scaling:
            fields[name] = scaling.pop(name)
    old = before.get('rope_scaling') or {}
    if 'type' in old and 'rope_type' not in old:
        scaling['type'] = scaling.pop('rope_type')
    plain = 'default' in (scaling.get('type'), scaling.get('rope_type'))
    return {**fields, 'rope_scaling': None if plain else scaling}

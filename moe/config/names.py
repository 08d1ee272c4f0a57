"""Errors for unknown names of fields, with the name probably meant."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from moe.config.errors import ConfigError
from moe.config.hints import choice_of, dataclass_of
from moe.config.registry import REQUIRED, Option, Registry, option_table

# Names of fields in other codebases, and in earlier versions of this one, with
# the names here that they may mean, as paths from the section or its parents.
SYNONYMS: dict[str, tuple[str, ...]] = {
    'activation': ('experts.activation', 'dense.activation'),
    'attn': ('attention',),
    'aux_loss_coef': ('losses.load_balance',),
    'balance_scope': ('losses.load_balance.scope',),
    'batch': ('batch_size',),
    'batch_prioritized': ('capacity.prioritized',),
    'bias_l2': ('bias_penalty.l2',),
    'bias_rate': ('balance.rate',),
    'capacity_factor': ('capacity.train', 'buffer_factor'),
    'capacity_rule': ('capacity.rule',),
    'constant_experts': ('zero_computation.constant',),
    'copy_experts': ('zero_computation.copy',),
    'd_ff': ('hidden', 'experts.hidden', 'dense.hidden'),
    'decoder_sparse_step': ('moe_every',),
    'embed_dim': ('d_model',),
    'epochs': ('steps',),
    'eval_capacity_factor': ('capacity.eval',),
    'exchange': ('communication',),
    'exchange_levels': ('communication.levels',),
    'exchange_room': ('communication.buffer_factor',),
    'executor': ('dispatcher',),
    'expert_parallel': ('communication', 'mesh.expert'),
    'ffn_dim': ('hidden', 'experts.hidden'),
    'first_k_dense_replace': ('dense_layers',),
    'fixed_norm': ('weight_norm',),
    'gate': ('router', 'mixture.gate'),
    'gating': ('router',),
    'grad_clip': ('clip_norm',),
    'gradnorm_alpha': ('alpha',),
    'gradnorm_rate': ('rate',),
    'heads': ('num_heads',),
    'hidden_dim': ('d_model', 'hidden'),
    'hidden_size': ('d_model', 'hidden'),
    'intermediate_size': ('hidden', 'experts.hidden'),
    'k': ('router.k',),
    'kind': ('target',),
    'l1': ('kernel_penalty.l1',),
    'l2': ('kernel_penalty.l2',),
    'layers': ('num_layers',),
    'lr': ('learning_rate',),
    'max_seq_len': ('seq_len',),
    'method': ('name',),
    'min_capacity': ('capacity.minimum',),
    'mlp_only_layers': ('dense_layers',),
    'momentum': ('batch_norm.momentum',),
    'n_experts': ('num_experts',),
    'n_heads': ('num_heads',),
    'n_layers': ('num_layers',),
    'num_experts_per_tok': ('router.k',),
    'num_hidden_layers': ('num_layers',),
    'num_local_experts': ('num_experts',),
    'num_selected_experts': ('router.k',),
    'outer_experts': ('hierarchy.groups',),
    'outer_router': ('hierarchy.router',),
    'penalty_rate': ('penalty.rate',),
    'positive': ('target.positive',),
    'renorm': ('batch_norm.renorm',),
    'renorm_momentum': ('batch_norm.renorm.momentum', 'renorm.momentum'),
    'rope_theta': ('rope.theta',),
    'sequence_length': ('seq_len',),
    'shared_d_ff': ('shared.network.hidden',),
    'shared_experts': ('shared.network',),
    'shared_gate': ('shared.gate',),
    'sparsity': ('penalty.sparsity',),
    'task': ('workload',),
    'top_k': ('router.k',),
    'tower_widths': ('towers.widths',),
    'use_bias': ('experts.use_bias', 'dense.use_bias'),
    'warmup': ('warmup_steps',),
    'wd': ('weight_decay',),
    'zero_experts': ('zero_computation.zero',),
}


def unknown(field: str, value: Any, known: Mapping[str, Option]) -> ConfigError:
    """Returns the error of a field that does not exist.

    Args:
      field: dotted name of the field.
      value: the value that it was given.
      known: fields of its section; one of the same name in a section below
        is found too.
    """
    name = field.rpartition('.')[2]
    near = _deeper(name, known) or nearest(name, list(known))
    return ConfigError(field, value, f'absent: no such field (nearest: {near})')


def _deeper(name: str, table: Mapping[str, Option]) -> str | None:
    """Returns the path of a field in a section below, None if it is in none."""
    for section, option in table.items():
        choice, schema = choice_of(option.hint), dataclass_of(option.hint)
        entries = [] if choice is None else list(choice.registry.values())
        if schema is not None:
            entries.append(schema)
        if any(name in option_table(entry) for entry in entries):
            return f'{section}.{name}'
    return None


def unknown_option(
    registry: Registry, name: str, field: str, value: Any
) -> ConfigError:
    """Returns the error of an option that a registry's entry does not have.

    Args:
      registry: the registry of the entry.
      name: the entry's name there.
      field: dotted name of the option.
      value: the value that it was given.
    """
    option = field.rpartition('.')[2]
    owners_of = lambda o: [
        n for n in registry if o in option_table(registry[n])
    ]
    owners = owners_of(option)
    if not owners:
        named = {'name': Option(str, REQUIRED)}
        known = named | option_table(registry[name])
        for meant in SYNONYMS.get(option.lower(), ()):
            others = ', '.join(owners_of(meant))
            if others and meant not in known:
                allowed = f'no such field (nearest: {meant}, of {others})'
                return ConfigError(field, value, f'absent: {allowed}')
        return unknown(field, value, known)
    allowed = (
        f'absent: {name!r} has no such option (it is one of '
        f'{", ".join(owners)})'
    )
    return ConfigError(field, value, allowed)


def nearest(name: str, known: Sequence[str]) -> str:
    """Returns the known name that was probably meant, synonyms first.

    >>> nearest('lr', ['clip_norm', 'learning_rate'])
    'learning_rate'
    """
    for meant in SYNONYMS.get(name.lower(), ()):
        if meant.partition('.')[0] in known:
            return meant
    found = difflib.get_close_matches(name, known, 1, cutoff=0)
    return found[0] if found else '-'

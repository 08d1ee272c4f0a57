"""The description of a run: what cannot work is refused in one line."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from configs import lm
from moe.config import ConfigError, Text, options, parse, to_plain
from moe.parameters import declared
from moe.routing import switch, top_k
from moe.workloads.lm.model import LM, active_parameters
from moe.workloads.lm.workload import LanguageConfig
from moe.workloads.registry import read_config
from tests import tiny

# What the messages below speak of, whatever the quickstart is.
FIXED = {
    'steps': 500,
    'optimizer.schedule.warmup_steps': 50,
    'model.d_model': 128,
    'model.num_layers': 4,
    'model.num_heads': 2,
    'model.num_kv_heads': 2,
    'model.moe.num_experts': 16,
    'model.moe.router.k': 2,
    'data.batch_size': 32,
    'data.seq_len': 128,
}


def check(changes):
    values = tiny.merged(FIXED, changes)
    return read_config(lm.get_config(), values.items())


def variant_of(name):
    return read_config(lm.get_config(name).to_dict())


@pytest.mark.parametrize('variant', lm.VARIANTS)
def test_variants_are_accepted(variant):
    model = variant_of(variant).model
    assert bool(model.moe_layers) == (variant != 'dense')


def test_variants_are_what_they_say():
    # Switch (arXiv 2101.03961) sends a token to one expert, GShard to two.
    found = {}
    for variant in lm.VARIANTS:
        moe = variant_of(variant).model.moe
        assert moe.router.func is (switch if variant == 'switch' else top_k)
        k = moe.experts_per_token
        factor = getattr(moe.capacity, 'train', None)
        found[variant] = (k, factor, moe.jitter)
    assert found == {
        'quickstart': (2, None, 0.0),
        'dense': (2, None, 0.0),
        'switch': (1, 1.25, 0.01),
        'top2': (2, 1.25, 0.0),
        'dropless': (8, None, 0.0),
    }
    with pytest.raises(ValueError, match='quickstart, dense, switch'):
        lm.get_config('quick')


def test_dense_variant_multiplies_as_much():
    # The same products a token as the quickstart, within a hundredth.
    counts = {}
    for variant in ('quickstart', 'dense'):
        model = variant_of(variant).model
        tokens = np.zeros((1, 2), np.int32)
        made = declared(LM(model).init, jax.random.key(0), tokens)
        counts[variant] = active_parameters(model, made)
    (total, active), (dense_total, dense_active) = counts.values()
    assert abs(active / dense_active - 1) < 0.01
    assert total > 2 * dense_total


def test_values_arrive():
    capacity = {'name': 'factor', 'train': 2}
    config = check({'steps': 60, 'model.moe.capacity': capacity, 'losses': {}})
    assert isinstance(config.model.moe.router, functools.partial)
    assert config.model.moe.capacity.train == 2.0
    assert (config.steps, config.losses) == (60, {})
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 3


@pytest.mark.parametrize(
    ('given', 'steps'), [('4e6 tokens', 977), ('409600 tokens', 100)]
)
def test_steps_are_given_in_tokens(given, steps):
    # Of 32 x 128 tokens each: 4e6 / 4096 = 976.6, which is rounded up.
    config = check(
        {
            'steps': Text(given),
            'optimizer.schedule.warmup_steps': '8193 tokens',
        }
    )
    assert config.steps == steps
    assert type(config.steps) is int
    assert options(config.optimizer.schedule)['warmup_steps'] == 3
    plain = to_plain(LanguageConfig, config)
    assert plain['steps'] == steps
    assert plain['optimizer']['schedule']['warmup_steps'] == 3


# Changes of the config, the field that the message names, and the end of the
# message.
REFUSED = [
    # Cross-field checks.
    (
        {'optimizer.schedule.warmup_steps': 500},
        'optimizer.schedule.warmup_steps',
        'less than steps (500)',
    ),
    ({'steps': 50}, 'optimizer.schedule.warmup_steps', 'less than steps (50)'),
    (
        {'optimizer.accumulation': 3},
        'optimizer.accumulation',
        'a divisor of data.batch_size (32)',
    ),
    ({'mesh.expert': 3}, 'mesh.expert', 'a divisor of num_experts (16)'),
    (
        # Two mixtures of 8 experts each.
        {
            'mesh.expert': 16,
            'model.moe.hierarchy.groups': 2,
            'model.moe.communication': 'ragged',
        },
        'mesh.expert',
        'a divisor of the 8 experts that it splits',
    ),
    (
        # 8 along the fast axis leave 2 to each.
        {
            'mesh.expert': 8,
            'mesh.replica': 4,
            'model.moe.communication': {'name': 'ragged', 'levels': 2},
        },
        'mesh.replica',
        'a divisor of the 2 experts that it splits',
    ),
    ({'mesh.tensor': 4}, 'mesh.tensor', 'a divisor of num_kv_heads (2)'),
    (
        {'model.moe.num_groups': 3},
        'model.moe.num_groups',
        'a divisor of the 4096 tokens of a (micro)batch',
    ),
    (
        {'model.moe.num_groups': 4096, 'optimizer.accumulation': 2},
        'model.moe.num_groups',
        'a divisor of the 2048 tokens of a (micro)batch',
    ),
    ({'model.vocab_size': 255}, 'model.vocab_size', 'at least 256'),
    (
        {'losses.balance': 0.1},
        'losses.balance',
        'absent: no such loss (there are importance, l1, load, load_balance, '
        'router_z, sequence_balance, output_z)',
    ),
    (
        {'model.moe.router.k': 17},
        'model.moe.router.k',
        'at most num_experts (16)',
    ),
    (
        {'model.d_model': 130},
        'model.d_model',
        'a multiple of 2 * num_heads (4)',
    ),
    (
        {'model.num_kv_heads': 4},
        'model.num_kv_heads',
        'a divisor of num_heads (2)',
    ),
    (
        {'model.moe_every': 5},
        'model.moe_every',
        'at most num_layers (4); 0 for none',
    ),
    ({'mesh.data': 0}, 'mesh.data', '-1 or at least 1'),
    # Ranges.
    ({'seed': -1}, 'seed', 'between 0 and 4294967295'),
    ({'steps': 0}, 'steps', 'at least 1'),
    ({'model.moe.num_experts': 0}, 'model.moe.num_experts', 'at least 1'),
    ({'model.moe.router.k': 0}, 'model.moe.router.k', 'at least 1'),
    (
        {'model.moe.capacity': {'name': 'factor', 'train': -1.25}},
        'model.moe.capacity.train',
        'greater than 0.0, or None',
    ),
    (
        {'model.moe.capacity': {'name': 'factor', 'eval': 0.0}},
        'model.moe.capacity.eval',
        'greater than 0.0, or None',
    ),
    ({'model.moe.jitter': 1.0}, 'model.moe.jitter', 'less than 1'),
    ({'losses.router_z': -0.1}, 'losses.router_z', 'at least 0.0'),
    (
        {'data.source.val_fraction': 0.6},
        'data.source.val_fraction',
        'between 0.0 and 0.5',
    ),
    ({'optimizer.b1': 1.5}, 'optimizer.b1', 'between 0.0 and 1.0'),
    (
        {'optimizer.name': 'muon', 'optimizer.b1': 0.9},
        'optimizer.b1',
        "absent: 'muon' has no such option (it is one of adamw, lion)",
    ),
    (
        {'optimizer.schedule': {'name': 'constant', 'final_fraction': 0.5}},
        'optimizer.schedule.final_fraction',
        "absent: 'constant' has no such option (it is one of cosine, linear, "
        'warmup_stable_decay)',
    ),
    (
        {'optimizer.learning_rate': 0.0},
        'optimizer.learning_rate',
        'greater than 0.0',
    ),
    (
        {'optimizer.learning_rate': float('nan')},
        'optimizer.learning_rate',
        'a finite number',
    ),
    (
        {'optimizer.clip_norm': 0.0},
        'optimizer.clip_norm',
        'greater than 0.0, or None',
    ),
    ({'mesh.replica': -1}, 'mesh.replica', 'at least 1'),
    ({'keep_checkpoints': 0}, 'keep_checkpoints', 'at least 1'),
    ({'profile': (5, 5)}, 'profile', '() or (start, stop), start < stop'),
    ({'profile': (5,)}, 'profile', '() or (start, stop), start < stop'),
    # Types and names.
    ({'steps': 10.0}, 'steps', 'an int'),
    ({'steps': True}, 'steps', 'an int'),
    ({'steps': 'many tokens'}, 'steps', 'an int'),
    ({'steps': '0 tokens'}, 'steps', 'at least 1'),
    (
        {'steps': '9 examples'},
        'steps',
        "steps, or a number of tokens ('2e9 tokens')",
    ),
    (
        {'optimizer.schedule.warmup_steps': '9 rows'},
        'optimizer.schedule.warmup_steps',
        'a number of tokens',
    ),
    (
        {'optimizer.multipliers.routers': 2.0},
        'optimizer.multipliers.routers',
        'a part is one of embedding, attention, router, experts',
    ),
    ({'data.seq_len': '128'}, 'data.seq_len', 'an int'),
    ({'model.tie_embeddings': 1}, 'model.tie_embeddings', 'a bool'),
    ({'data.source.files': None}, 'data.source.files', 'a str'),
    (
        {'model.moe.dispatcher': 'sorted'},
        'model.moe.dispatcher.name',
        'one of grouped, indexed, onehot',
    ),
    (
        {'optimizer.name': 'sgd'},
        'optimizer.name',
        'one of adafactor, adamw, lion, muon',
    ),
    (
        {'optimizer.schedule': 'step'},
        'optimizer.schedule.name',
        'one of constant, cosine, inverse_sqrt, linear',
    ),
    ({'model.moe.router.name': 'best'}, 'model.moe.router.name', 'top_k'),
    # Sections.
    ({'mesh': None}, 'mesh', 'replica, data, fsdp, expert, tensor'),
    ({'model.moe': 3}, 'model.moe', 'a section with the fields num_experts'),
    ({'losses': 0.01}, 'losses', 'a section of name: number'),
    # Unknown fields and the nearest that exist.
    ({'step': 3}, 'step', 'no such field (nearest: steps)'),
    (
        {'model.moe.num_expert': 3},
        'model.moe.num_expert',
        'no such field (nearest: num_experts)',
    ),
    (
        {'model.moe.router.renormalise': True},
        'model.moe.router.renormalise',
        'no such field (nearest: renormalize)',
    ),
    (
        {'optimizer.schedule.warmup': 9},
        'optimizer.schedule.warmup',
        'no such field (nearest: warmup_steps)',
    ),
]


@pytest.mark.parametrize(('changes', 'field', 'allowed'), REFUSED, ids=str)
def test_refused_in_one_line(changes, field, allowed):
    with pytest.raises(ConfigError) as caught:
        check(changes)
    message = str(caught.value)
    assert message.startswith(f'config.{field} = ')
    assert ': must be ' in message
    assert allowed in message.split(': must be ')[1]
    assert '\n' not in message


# What looks odd and works: batches of one group, k of all experts, and a mesh
# that the experts and the heads divide.
@pytest.mark.parametrize(
    'changes',
    [
        {'model.moe.num_groups': 4096},
        {'model.moe.num_groups': 1, 'optimizer.accumulation': 32},
        {'model.moe.router.k': 16},
        {'mesh.expert': 16, 'mesh.tensor': 2},
        {'optimizer.schedule.warmup_steps': 0},
        {'steps': 51},
        {'model.moe_every': 4, 'model.rope': None},
        {'losses.load_balance': 0, 'optimizer.clip_norm': None},
        {'sample_prompt': '', 'sample_length': 0},
        # Sections that say nothing are as the code has them.
        {'model': {}},
        {'model.moe.router': {}},
    ],
    ids=str,
)
def test_accepted(changes):
    assert isinstance(check(changes), LanguageConfig)


def test_a_config_made_before_a_field_existed():
    # Without any one of its fields it is read, with the field's default.
    plain = to_plain(LanguageConfig, LanguageConfig(workload='lm'))
    for field in dataclasses.fields(LanguageConfig):
        rest = {k: v for k, v in plain.items() if k != field.name}
        if field.name == 'workload':
            with pytest.raises(ConfigError, match=r'missing workload$'):
                parse(LanguageConfig, rest)
        else:
            found = parse(LanguageConfig, rest)
            assert to_plain(LanguageConfig, found) == plain

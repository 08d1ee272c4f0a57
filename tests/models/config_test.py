"""What the config of a stack refuses."""

import re

import pytest

from moe.config import ConfigError
from tests import tiny


@pytest.mark.parametrize(
    ('changes', 'field', 'allowed'),
    [
        ({'d_model': 18}, 'd_model', 'a multiple of 2 * num_heads (4)'),
        ({'num_heads': 3}, 'd_model', 'a multiple of 2 * num_heads (6)'),
        (
            {'num_heads': 4, 'num_kv_heads': 3},
            'num_kv_heads',
            'a divisor of num_heads (4)',
        ),
        ({'num_kv_heads': 4}, 'num_kv_heads', 'a divisor of num_heads (2)'),
        ({'moe_every': 3}, 'moe_every', 'at most num_layers (2); 0 for none'),
        (
            {'dense_layers': (2,)},
            'dense_layers',
            'layers below num_layers (2), each once',
        ),
        (
            {'dense_layers': (0, 0)},
            'dense_layers',
            'layers below num_layers (2), each once',
        ),
        (
            {'dense_layers': (0, 1)},
            'dense_layers',
            'fewer layers; moe_every = 0 is a stack without mixtures',
        ),
        (
            {'dense_layers': (0,), 'moe_every': 0},
            'dense_layers',
            '(), as moe_every = 0 has no mixtures',
        ),
        (
            {'moe_last': 2, 'dense_layers': (0,)},
            'moe_last',
            'at most 1, the mixtures by moe_every',
        ),
        (
            {'moe_last': 1, 'moe_every': 0},
            'moe_last',
            'None, as moe_every = 0 has no mixtures',
        ),
        ({'remat': 'some'}, 'remat', "one of 'none', 'dots', 'hidden', 'full'"),
        ({'rope.theta': 0.0}, 'rope.theta', 'greater than 0.0'),
        (
            {'rope.share': 0.4},
            'rope.share',
            'a part of the 8 numbers of a head that is even',
        ),
        (
            {'rope.scaling': {'name': 'ntk'}, 'head_dim': 2},
            'rope.scaling.name',
            'an option of heads of which 4 or more turn',
        ),
        ({'head_dim': 3}, 'rope.share', 'numbers of a head that is even'),
        ({'window_layers': (0,)}, 'window_layers', 'None without a window'),
        (
            {'sliding_window': 4, 'window_layers': (2,)},
            'window_layers',
            'layers below num_layers (2), each once',
        ),
        (
            {'attention': 'cudnn', 'attention_sinks': True},
            'attention_sinks',
            "left out: the attention kernel 'cudnn' has none",
        ),
        (
            {'latent': {}, 'qk_norm': 'head'},
            'qk_norm',
            "'none' with latent attention, which has none",
        ),
        (
            {'latent': {}, 'num_kv_heads': 1},
            'num_kv_heads',
            'num_heads (2) with latent attention',
        ),
        (
            {'latent.rope_dim': 3},
            'rope.share',
            'a part of the 3 numbers of a head that is even',
        ),
        ({'qk_norm': 'all'}, 'qk_norm', "one of 'none', 'head', 'width'"),
        ({'dtype': 'float16'}, 'dtype', "one of 'float32', 'bfloat16'"),
    ],
    ids=str,
)
def test_refused(changes, field, allowed):
    message = f'^{re.escape(f"config.model.{field} = ")}.*{re.escape(allowed)}$'
    with pytest.raises(ConfigError, match=message):
        tiny.model(changes)


@pytest.mark.parametrize(
    ('changes', 'layers'),
    [
        ({'moe_every': 2}, [1, 3, 5, 7]),
        # V-MoE's Last-2 is of its odd blocks: arXiv 2106.05974.
        ({'moe_every': 2, 'moe_last': 2}, [5, 7]),
        # Soft MoE's second half: arXiv 2308.00951.
        ({'moe_last': 4}, [4, 5, 6, 7]),
        ({'moe_last': 2, 'dense_layers': (7,)}, [5, 6]),
    ],
)
def test_where_the_mixtures_are(changes, layers):
    assert tiny.model({'num_layers': 8, **changes}).moe_layers == layers

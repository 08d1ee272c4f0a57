"""Expert types by name, and the experts they become."""

import functools

import flax.linen as nn
import jax.numpy as jnp
import pytest

from moe.config import ConfigError, parse
from moe.experts import EXPERTS, MLP, Lifted
from moe.experts.base import make_experts
from moe.layers import MoEConfig


class Scale(nn.Module):
    """One expert, as a user writes it."""

    start: float = 1.0

    @nn.compact
    def __call__(self, rows):
        scale = self.param('scale', nn.initializers.constant(self.start), ())
        return rows * scale


def test_mlp_is_all_experts_at_once():
    choice = functools.partial(MLP, hidden=8)
    experts = make_experts(choice, 4, dtype=jnp.bfloat16, down_scale=0.5)
    assert isinstance(experts, MLP)
    assert (experts.hidden, experts.num_experts) == (8, 4)
    assert (experts.dtype, experts.down_scale) == (jnp.bfloat16, 0.5)
    one = make_experts(choice, None, dtype=jnp.float32)
    assert one.num_experts is None


def test_others_are_copied():
    experts = make_experts(functools.partial(Scale, 2.0), 3, dtype=jnp.float32)
    assert isinstance(experts, Lifted)
    assert experts.num_experts == 3
    assert experts.expert.start == 2.0
    one = make_experts(functools.partial(Scale), None, dtype=jnp.float32)
    assert isinstance(one, Scale)


def test_a_config_chooses(monkeypatch):
    monkeypatch.setitem(EXPERTS._entries, 'scale', Scale)
    section = {'experts': {'name': 'scale', 'start': 3.0}}
    choice = parse(MoEConfig, section).experts
    assert choice.func is Scale
    assert choice.keywords == {'start': 3.0}
    with pytest.raises(ConfigError, match='no such option'):
        parse(MoEConfig, {'experts': {'name': 'scale', 'hidden': 3}})
    # What the layer fills in is no field of a config.
    with pytest.raises(ConfigError, match='no such'):
        parse(MoEConfig, {'experts': {'name': 'mlp', 'num_experts': 3}})

import pytest

from moe.checkpoints.hf.granite import GRANITE_MOE, GRANITE_MOE_SHARED


def test_the_multipliers_are_factors():
    model = GRANITE_MOE.read_config(
        {
            'embedding_multiplier': 12.0,
            'residual_multiplier': 0.22,
            'attention_multiplier': 0.015625,
            'logits_scaling': 6.0,
        }
    )
    assert model['embedding_scale'] == 12.0
    assert model['residual_scale'] == 0.22
    assert model['attention_scale'] == 0.015625
    assert model['logit_scale'] == 1 / 6


@pytest.mark.parametrize('divisor', [1.0, 1.6, 2.5, 3.0, 6.0, 7.3, 49.0])
def test_the_divisor_of_logits_comes_back(divisor):
    entry = next(
        e for e in GRANITE_MOE.entries if e.names == ('logits_scaling',)
    )
    found = entry.read({'logits_scaling': divisor})
    assert entry.write(found) == {'logits_scaling': divisor}


def test_a_shared_network_of_no_width_is_none():
    given = {'shared_intermediate_size': 0}
    assert GRANITE_MOE_SHARED.read_config(given)['moe']['shared'] is None
    given = {'shared_intermediate_size': 8}
    shared = GRANITE_MOE_SHARED.read_config(given)['moe']['shared']
    assert shared['network']['hidden'] == 8

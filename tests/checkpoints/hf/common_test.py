import pytest

from moe.checkpoints.hf.common import (
    activation,
    biases,
    first_dense,
    head_dim,
    softmax_router,
    sparse_steps,
)
from moe.config import ConfigError


@pytest.mark.parametrize(
    ('given', 'every', 'dense'),
    [
        ({}, 1, ()),
        ({'mlp_only_layers': [1, 3]}, 1, (1, 3)),
        ({'decoder_sparse_step': 2}, 2, ()),
        # Layers that are dense by the step are not named again.
        ({'decoder_sparse_step': 2, 'mlp_only_layers': [0, 3]}, 2, (3,)),
        ({'mlp_only_layers': [0, 1, 2, 3]}, 0, ()),
        ({'decoder_sparse_step': 5}, 0, ()),
    ],
)
def test_layers_are_sparse_by_a_step_and_a_list(given, every, dense):
    found = sparse_steps().read({'num_hidden_layers': 4, **given})
    assert found == {'moe_every': every, 'dense_layers': dense}
    again = sparse_steps().write({**found, 'num_layers': 4})
    assert sparse_steps().read({'num_hidden_layers': 4, **again}) == found


@pytest.mark.parametrize('first', [0, 2, 4, 9])
def test_the_first_layers_are_dense(first):
    given = {'num_hidden_layers': 4, 'first_k_dense_replace': first}
    found = first_dense().read(given)
    dense = tuple(range(min(first, 4)))
    if first >= 4:
        assert found == {'moe_every': 0, 'dense_layers': ()}
    else:
        assert found == {'moe_every': 1, 'dense_layers': dense}
    again = first_dense().write({**found, 'num_layers': 4})
    assert again == {'first_k_dense_replace': min(first, 4)}


def test_activations_without_a_gated_one_of_ours_are_refused():
    entry = activation('dense')
    assert entry.read({'hidden_act': 'gelu_new'}) == {
        'dense.activation': 'geglu'
    }
    # The exact one, by erf, is another function than ours.
    with pytest.raises(ConfigError, match="hidden_act = 'gelu': must be one"):
        entry.read({'hidden_act': 'gelu'})


def test_one_renormalised_expert_is_refused():
    given = {'num_experts_per_tok': 1}
    with pytest.raises(ConfigError, match='2 or more with renormalised gates'):
        softmax_router(None).read(given)
    entry = softmax_router('norm_topk_prob')
    found = entry.read({**given, 'norm_topk_prob': False})
    assert found['moe.router.renormalize'] is False


def test_the_width_of_heads_is_written_where_it_is_another():
    assert head_dim().read({'head_dim': None}) == {'head_dim': None}
    model = {'head_dim': None, 'd_model': 32, 'num_heads': 4}
    assert head_dim().write(model) == {}
    assert head_dim(always=True).write(model) == {'head_dim': 8}
    assert head_dim().write({**model, 'head_dim': 6}) == {'head_dim': 6}


def test_biases_are_those_that_the_family_has():
    entry = biases('attention_bias', 'qkv')
    assert entry.read({'attention_bias': True}) == {'attention_bias': 'qkv'}
    assert entry.write({'attention_bias': 'none'}) == {'attention_bias': False}

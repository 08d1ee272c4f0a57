import pytest

from moe.checkpoints.hf.families import FAMILIES
from moe.checkpoints.hf.runs import complete_config, plain_config
from moe.config import ConfigError
from moe.workloads.registry import plain_of, read_config

SMALL = {
    'vocab_size': 32,
    'hidden_size': 16,
    'intermediate_size': 8,
    'num_hidden_layers': 2,
    'num_attention_heads': 2,
    'num_key_value_heads': 2,
    'num_local_experts': 4,
}


def model_of(name, **changes):
    section = FAMILIES[name].read_config(SMALL) | changes
    return plain_of(read_config(plain_config(section, '', 8)))['model']


def test_a_run_of_a_model_has_its_positions_and_no_data():
    plain = plain_config(FAMILIES['mixtral'].read_config(SMALL), 't.json', 99)
    assert plain['data']['seq_len'] == 99
    assert plain['data']['source'] == {'name': 'array', 'tokenizer': 't.json'}


@pytest.mark.parametrize(
    'how', [{'dtype': 'bfloat16'}, {'remat': 'full'}, {'head_dim': 8}]
)
def test_how_a_model_is_computed_is_not_of_its_family(how):
    family = FAMILIES['mixtral']
    written = complete_config(family, model_of('mixtral', **how), None, 8)
    assert written['hidden_size'] == 16
    assert written['max_position_embeddings'] == 8


@pytest.mark.parametrize(
    ('changes', 'line'),
    [
        ({'qk_norm': 'head'}, "config.model.qk_norm = 'head': must be 'none'"),
        ({'embedding_scale': None}, r'embedding_scale = 4\.0: must be 1\.0'),
        ({'logit_scale': 2.0}, r'logit_scale = 2\.0: must be 1\.0'),
        ({'norm': 'layer'}, "config.model.norm = 'layer': must be 'rms'"),
        ({'moe_every': 2}, 'config.model.moe_every = 2: must be 1'),
    ],
)
def test_a_model_that_the_family_does_not_have_is_refused(changes, line):
    model = model_of('mixtral', **changes)
    with pytest.raises(ConfigError, match=line):
        complete_config(FAMILIES['mixtral'], model, None, 8)


def test_other_fields_of_an_imported_config_are_kept():
    before = {**SMALL, 'bos_token_id': 3, 'num_experts': 9}
    before |= {'quantization_config': {'quant_method': 'fp8'}}
    family, model = FAMILIES['mixtral'], model_of('mixtral')
    written = complete_config(family, model, before, 8)
    assert written['bos_token_id'] == 3
    assert not {'num_experts', 'quantization_config'} & set(written)
    # It had the form of transformers 4.
    assert written['rope_theta'] == 1e6

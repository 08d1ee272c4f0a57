import pytest

from moe.checkpoints.hf.families import FAMILIES, family_of
from moe.checkpoints.hf.family import register
from moe.config import ConfigError
from tests.checkpoints.hf import published


def test_a_config_without_fields_is_of_the_default_sizes():
    model = family_of({'model_type': 'mixtral'}).read_config({})
    assert model['d_model'] == 4096
    assert model['moe']['num_experts'] == 8
    assert model['rope']['theta'] == 1e6


def test_other_names_of_a_field_and_of_a_family_are_read():
    given = {'model_type': 'qwen3_moe', 'num_local_experts': 5}
    family = family_of(given)
    assert family.read_config(given)['moe']['num_experts'] == 5
    assert family_of(published.KIMI_K2).name == 'deepseek_v3'


def test_a_model_type_that_is_not_known_is_refused():
    with pytest.raises(ConfigError, match="model_type = 'gpt2': must be one"):
        family_of({'model_type': 'gpt2'})


def test_an_ignored_field_is_as_if_it_were_absent():
    family = FAMILIES['mixtral']
    given = {'hidden_size': 64, 'new': 1}
    with pytest.raises(ConfigError, match='new = 1'):
        family.read_config(given)
    model = family.read_config(given, ['new', 'hidden_size'])
    assert model['d_model'] == 4096


def test_a_family_is_registered_by_its_name():
    mixtral = FAMILIES['mixtral']
    assert register(mixtral) is mixtral
    assert all(name == family.name for name, family in FAMILIES.items())


def test_a_written_config_names_the_class_of_transformers():
    written = FAMILIES['llama'].write_config
    assert written.__self__.architecture == 'LlamaForCausalLM'

from moe.checkpoints.hf.gpt_oss import GPT_OSS
from tests.checkpoints.hf import published


def test_the_published_gpt_oss_has_a_window_in_every_other_layer():
    model = GPT_OSS.read_config(published.GPT_OSS_20B)
    assert model['sliding_window'] == 128
    assert model['window_layers'] == tuple(range(0, 24, 2))
    assert model['moe']['experts']['activation'] == {
        'name': 'clamped_swiglu',
        'limit': 7.0,
        'alpha': 1.702,
    }
    assert model['moe']['router']['k'] == 4
    assert model['attention_sinks'] is True
    assert model['rope']['scaling']['truncate'] is False


def test_a_config_that_says_nothing_of_rotation_has_yarn():
    scaling = GPT_OSS.read_config({})['rope']['scaling']
    assert (scaling['name'], scaling['factor']) == ('yarn', 32.0)
    plain = GPT_OSS.read_config({'rope_parameters': {'rope_type': 'default'}})
    assert plain['rope']['scaling'] == {'name': 'none'}
    assert plain['rope']['theta'] == 150_000.0

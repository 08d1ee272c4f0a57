"""The task of a config is the one that it names."""

import pytest

from configs import lm, vision
from moe.config import ConfigError
from moe.training import LanguageConfig, VisionConfig, read_config


def test_by_name():
    found = read_config(lm.get_config().to_dict())
    assert isinstance(found, LanguageConfig)
    found = read_config(vision.get_config().to_dict())
    assert isinstance(found, VisionConfig)


@pytest.mark.parametrize('name', [None, 'audio', 3])
def test_unknown_task(name):
    with pytest.raises(ConfigError) as caught:
        read_config({'task': name})
    message = f"config.task = {name!r}: must be one of 'lm', 'vision'"
    assert str(caught.value) == message


def test_each_task_refuses_the_others_sections():
    plain = vision.get_config().to_dict()
    with pytest.raises(ConfigError, match='missing sample_prompt'):
        read_config({**plain, 'task': 'lm'})

"""`tf.train.Example` against the library of protocol buffers."""

import pytest

from moe.workloads.vision.data.example_proto import read_example, write_example
from tests.workloads.vision.pictures import example, example_class

FEATURES = {'image': b'\x89' + bytes(range(256)), 'label': 300}


def test_reads_what_the_library_writes():
    record = example(**FEATURES, many=[0, 1, 2**40, -1], some=[0.5, 1.5])
    assert read_example(record) == {
        'image': [FEATURES['image']],
        'label': [300],
        'many': [0, 1, 2**40, -1],
        'some': [],
    }


def test_the_library_reads_what_is_written():
    made = example_class().FromString(write_example({**FEATURES, 'zero': 0}))
    found = {entry.key: entry.value for entry in made.features.feature}
    assert list(found['image'].bytes_list.value) == [FEATURES['image']]
    assert list(found['label'].int64_list.value) == [300]
    assert list(found['zero'].int64_list.value) == [0]


@pytest.mark.parametrize(
    'record', [b'\xff' * 20, write_example(FEATURES)[:-1], b'\x0c', b'\x80']
)
def test_damage(record):
    with pytest.raises(ValueError, match='is no tf'):
        read_example(record)

"""What is learned of training rows, by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.config import ConfigError
from tests.workloads.multitask.data.small_table import (
    CLASSES,
    LABEL,
    REGRESSION,
    chunk,
    encode,
    learn,
)


@given(
    st.lists(st.lists(st.floats(-1e3, 1e3), min_size=1), min_size=1),
    st.floats(-1e4, 1e4),
)
def test_moments_of_chunks(parts, offset):
    # The same mean and deviation, however the rows are cut.
    x = [[value + offset for value in part] for part in parts]
    chunks = [
        chunk(
            age=[*map(repr, part)],
            city=['Ulm'] * len(part),
            click=['0'] * len(part),
        )
        for part in x
    ]
    learned = learn(*chunks, chunk(age=['', ''], city=['', ''], click='01'))
    whole = np.concatenate(x)
    np.testing.assert_allclose(
        learned.mean, np.mean(whole), rtol=1e-9, atol=1e-9
    )
    desired = np.std(whole)
    if desired > 1e-3:
        np.testing.assert_allclose(learned.deviation, desired, rtol=1e-7)


def test_constants_and_columns_without_numbers():
    learned = learn(
        chunk(height=['0.1'] * 4, width=['?'] * 4),
        numeric=('height', 'width'),
    )
    assert learned.deviation == (1.0, 1.0)
    rows, _ = encode(
        learned, chunk(height=['0.1'] * 4, width=['7', '', '', ''])
    )
    np.testing.assert_allclose(rows['numeric'][:, 0], 0, atol=1e-7)
    np.testing.assert_array_equal(rows['numeric'][:, 1], [7, 0, 0, 0])


def test_equally_frequent_by_name():
    learned = learn(chunk(city=['d', 'b', 'c', 'a']))
    assert learned.categories == {'city': ('a', 'b', 'c', 'd')}


@pytest.mark.parametrize(
    ('label', 'clicks', 'words'),
    [
        (LABEL, '0000', '(none are of 1)'),
        (LABEL, '1111', '(all are of 1)'),
        (LABEL, '????', 'two classes'),
        (CLASSES, 'aaa?', 'two classes'),
        (REGRESSION, '????', 'have any'),
    ],
)
def test_labels_that_teach_nothing(label, clicks, words):
    with pytest.raises(ConfigError) as caught:
        learn(chunk(click=list(clicks)), labels=(label,))
    assert caught.value.field == 'config.data.source.schema.labels[0]'
    assert words in caught.value.allowed


def test_one_label_in_two_spellings():
    # Two of the four are positive, whatever program wrote them; the class of
    # one spelling keeps it, one of two has the shorter.
    made = chunk(click=['1', '1.0', '0', '0.0'])
    rows, _ = encode(learn(made), made)
    assert rows['label'].tolist() == [[1], [1], [0], [0]]
    made = chunk(click=['1', '1.0', '2.0', '03'])
    learned = learn(made, labels=(CLASSES,))
    assert learned.classes == {'click': ('03', '1', '2.0')}
    rows, _ = encode(learned, chunk(click=['2', '1.', '2.00', '03']))
    assert rows['label'].tolist() == [[2], [1], [2], [0]]
    # So with the values of a sample space, and missing ones.
    label = {**LABEL, 'where': {'column': 'shown', 'values': ('1', 'yes')}}
    made = chunk(
        click=['1', '0', '-9.0', '0'], shown=['1.0', '0', 'yes', '1e0']
    )
    rows, _ = encode(
        learn(made, labels=(label,), missing=('', '-9')),
        made,
    )
    assert rows['mask'].tolist() == [[True], [False], [False], [True]]


def test_one_category_in_two_spellings():
    # Three of 7, one of 07, and a version that is no number.
    made = chunk(city=['7', '7.0', '07', '7.10'])
    learned = learn(made)
    assert learned.categories == {'city': ('7', '07', '7.10')}
    rows, _ = encode(learned, chunk(city=['7.', '7.00', '7.1', '07']))
    assert rows['categorical'].tolist() == [[1], [1], [0], [2]]
    # Hashes and users too.
    for changes, name in (
        ({'hashed': ('city',), 'buckets': 1000}, 'categorical'),
        ({'user': 'city'}, 'user'),
    ):
        rows, _ = encode(learn(made, **changes), made)
        ids = rows[name].ravel()
        assert ids[0] == ids[1] != ids[2]


def test_statistics_of_a_label():
    # 1, 2 and 6: mean 3, variance 14 / 3; of logarithms those of log 2, 3, 7.
    made = chunk(click=['1', '2', '?', '6'])
    target = {'name': 'regression', 'standardize': True}
    label = {**LABEL, 'target': target}
    learned = learn(made, labels=(label,))
    assert learned.label_mean['click'] == pytest.approx(3, rel=1e-12)
    rows, _ = encode(learned, made)
    desired = np.array([-2, -1, 0, 3]) / np.sqrt(14 / 3)
    np.testing.assert_allclose(rows['label'][:, 0], desired, rtol=1e-6)
    label = {**LABEL, 'target': {**target, 'log1p': True}}
    learned = learn(made, labels=(label,))
    logs = np.log([2.0, 3.0, 7.0])
    rows, _ = encode(learned, made)
    desired = (logs - logs.mean()) / logs.std()
    np.testing.assert_allclose(rows['label'][[0, 1, 3], 0], desired, rtol=1e-6)
    # And back, from the prediction z = 1.
    (target,) = learned.inputs().targets
    (actual,) = target.predictions(np.ones((1, 1)))['click']
    assert actual == pytest.approx(np.exp(logs.mean() + logs.std()) - 1)

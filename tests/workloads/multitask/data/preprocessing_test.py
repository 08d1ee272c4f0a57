"""How rows are encoded by what was learned, by hand."""

import json
import math
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.config import ConfigError
from moe.workloads.multitask.data.preprocessing import Preprocessing
from tests.workloads.multitask.data.small_table import (
    CLASSES,
    LABEL,
    REGRESSION,
    chunk,
    encode,
    learn,
)


def test_numbers():
    # 1, 2 and 6: mean 3, deviation sqrt((4 + 1 + 9) / 3); '' is their mean.
    learned = learn()
    assert learned.mean == pytest.approx([3.0], rel=1e-15)
    assert learned.deviation == pytest.approx([math.sqrt(14 / 3)], rel=1e-15)
    rows, _ = encode(learned, chunk())
    desired = np.array([-2, -1, 0, 3]) / math.sqrt(14 / 3)
    assert rows['numeric'].dtype == np.float32
    np.testing.assert_allclose(rows['numeric'][:, 0], desired, rtol=1e-6)
    # Of other rows by the same numbers.
    rows, _ = encode(learned, chunk(age=['3', '10', '?', '-1e3']))
    desired = np.array([0, 7, 0, -1003]) / math.sqrt(14 / 3)
    np.testing.assert_allclose(rows['numeric'][:, 0], desired, rtol=1e-6)


def test_logarithms():
    learned = learn(log1p=('age',))
    logs = np.log([2.0, 3.0, 7.0])
    assert learned.mean == pytest.approx([np.mean(logs)], rel=1e-12)
    rows, _ = encode(learned, chunk())
    desired = (logs - np.mean(logs)) / np.std(logs)
    actual = rows['numeric'][[0, 1, 3], 0]
    np.testing.assert_allclose(actual, desired, rtol=1e-6)
    assert rows['numeric'][2, 0] == 0


@pytest.mark.parametrize('indicators', [False, True])
def test_indicators(indicators):
    # Of `age` alone: no `height` is missing where it was learned.
    learned = learn(
        chunk(height=['1', '2', '3', '4']),
        numeric=('height', 'age'),
        indicators=indicators,
    )
    assert learned.indicated == (('age',) if indicators else ())
    assert learned.num_numeric == 2 + indicators
    rows, _ = encode(learned, chunk(height=['', '2', '3', '4']))
    assert rows['numeric'].shape == (4, 2 + indicators)
    if indicators:
        np.testing.assert_array_equal(rows['numeric'][:, 2], [0, 0, 1, 0])
    assert rows['numeric'][0, 0] == 0


def test_categories():
    # The most frequent is 1; missing, rare and unknown are 0.
    learned = learn()
    assert learned.categories == {'city': ('Bonn', 'Ulm')}
    assert learned.table_sizes == {'city': 3}
    rows, _ = encode(learned, chunk(city=['Bonn', 'Ulm', 'Rome', '?']))
    assert rows['categorical'].dtype == np.int32
    assert rows['categorical'].tolist() == [[1], [2], [0], [0]]
    learned = learn(min_count=2)
    assert learned.categories == {'city': ('Bonn',)}
    rows, _ = encode(learned, chunk())
    assert rows['categorical'].tolist() == [[0], [1], [1], [0]]


def test_columns_that_share_a_table():
    # Ulm 1 + 2 times, Bonn 2 + 1, Rome once.
    home = ['Ulm', 'Ulm', 'Rome', 'Bonn']
    learned = learn(
        chunk(home=home),
        categorical=('city', 'home'),
        shared=(('home', 'city'),),
    )
    assert learned.categories == {'home': ('Bonn', 'Ulm', 'Rome')}
    assert learned.table_sizes == {'home': 4}
    assert learned.table_of == (0, 0)
    rows, _ = encode(learned, chunk(home=home))
    assert rows['categorical'].tolist() == [[2, 2], [1, 2], [1, 3], [0, 1]]


def test_hashed_categories():
    # CRC-32, which no process salts: of 'city', goes on with the value.
    learned = learn(hashed=('city',), buckets=5)
    assert learned.categories == {}
    assert learned.table_sizes == {'city': 6}
    assert learned.table_of == (0,)
    values = ['Bonn', 'Köln', 'Rome', '?']
    rows, _ = encode(learned, chunk(city=values))
    desired = [[1 + zlib.crc32(b'city' + v.encode()) % 5] for v in values]
    assert rows['categorical'].tolist() == [*desired[:3], [0]]


NAMES = st.text(st.characters(exclude_characters='.'), max_size=3)


@given(st.lists(NAMES, min_size=2), st.data())
def test_categories_come_back(values, data):
    clicks = ['0', '1'] * (len(values) // 2 + 1)
    made = chunk(
        age=['1'] * len(values), city=values, click=clicks[: len(values)]
    )
    learned = learn(made)
    rows, _ = encode(learned, made)
    names = (None, *learned.categories['city'])
    back = [names[i] for i in rows['categorical'][:, 0]]
    assert back == [None if v in ('', '?') else v for v in values]
    # And after a round through JSON.
    again = Preprocessing.from_json(learned.to_json())
    assert again == learned
    rows_again, _ = encode(again, made)
    np.testing.assert_array_equal(
        rows_again['categorical'], rows['categorical']
    )


def test_binary_label():
    rows, _ = encode(learn(), chunk())
    assert rows['label'].dtype == np.float32
    assert rows['label'].tolist() == [[0], [1], [0], [1]]
    assert rows['mask'].tolist() == [[True], [True], [False], [True]]


def test_classes():
    learned = learn(chunk(click=['no', '?', 'yes', 'maybe']), labels=(CLASSES,))
    assert learned.classes == {'click': ('maybe', 'no', 'yes')}
    rows, _ = encode(learned, chunk(click=['yes', 'no', '?', 'maybe']))
    assert rows['label'].tolist() == [[2], [1], [0], [0]]
    assert rows['mask'].tolist() == [[True], [True], [False], [True]]


def test_regression():
    learned = learn(chunk(click=['1.5', '?', '-2', '3']), labels=(REGRESSION,))
    rows, _ = encode(learned, chunk(click=['1.5', '?', '-2', '3e8']))
    assert rows['label'].tolist() == [[1.5], [0], [-2], [3e8]]
    assert rows['mask'].tolist() == [[True], [False], [True], [True]]


def test_sample_space():
    # A purchase where there is a click; the price where there is a purchase.
    where = lambda column: {'column': column, 'values': ('1',)}
    buy = {**LABEL, 'name': 'buy', 'column': 'buy', 'where': where('click')}
    price = {**REGRESSION, 'name': 'price', 'column': 'price'}
    price['where'] = where('buy')
    more = {
        'click': ['0', '1', '1', '1'],
        'buy': ['1', '0', '1', '?'],
        'price': ['9', '2', '3', 'none'],
    }
    labels = (LABEL, buy, price)
    learned = learn(chunk(**more), labels=labels)
    rows, _ = encode(learned, chunk(**more))
    assert rows['mask'].tolist() == [
        [True, False, True],
        [True, True, False],
        [True, True, True],
        [True, False, False],
    ]
    # What is outside of the sample space need not be a number.
    assert rows['label'].tolist() == [
        [0, 0, 9],
        [1, 0, 0],
        [1, 1, 3],
        [1, 0, 0],
    ]


@pytest.mark.parametrize('absent', ['click', 'shown', 'who'])
def test_columns_that_need_not_be(absent):
    label = {**LABEL, 'where': {'column': 'shown', 'values': ('1',)}}
    more = {'shown': list('1110'), 'who': list('abca')}
    learned = learn(chunk(**more), labels=(label,), user='who')
    whole, _ = encode(learned, chunk(**more))
    rows, _ = encode(learned, chunk(**{**more, absent: None}))
    assert rows.keys() == whole.keys()
    for name in ('numeric', 'categorical'):
        np.testing.assert_array_equal(rows[name], whole[name])
    assert whole['mask'].tolist() == [[True], [True], [False], [False]]
    assert whole['user'][0] == whole['user'][3] != whole['user'][1]
    assert whole['user'].tolist() == [
        zlib.crc32(c) % 2**31 for c in (b'a', b'b', b'c', b'a')
    ]
    if absent == 'who':
        assert rows['user'].tolist() == [0] * 4
    else:
        assert not rows['mask'].any()
        assert not rows['label'].any()


BAD = [
    ({'age': ['1', 'x', '3', '4']}, {}, "a.csv:3: age = 'x'", 'a finite'),
    ({'age': ['1', '2', '3', 'nan']}, {}, 'a.csv:5: age', 'a finite number'),
    ({'age': ['1', '2', '3', '1e39']}, {}, 'a.csv:5: age', 'a finite number'),
    (
        {'age': ['1', '-1', '3', '4']},
        {'log1p': ('age',)},
        ':3: age',
        'above -1',
    ),
    (
        {'click': ['1', '2', '3', 'x']},
        {'labels': (REGRESSION,)},
        "a.csv:5: click = 'x'",
        'a finite number',
    ),
]


@pytest.mark.parametrize(('columns', 'changes', 'place', 'words'), BAD)
def test_values_that_cannot_be_used(columns, changes, place, words):
    good = learn(**changes)
    for call in (
        lambda: learn(chunk(**columns), **changes),
        lambda: encode(good, chunk(**columns)),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        assert place in str(caught.value)
        assert words in caught.value.allowed
    # Or the row is left out, here as there.
    i = next(iter(columns.values())).index(caught.value.value)
    kept = np.arange(4) != i
    learned = learn(chunk(**columns), skip=True, **changes)
    assert learned == learn(chunk(**columns).chosen(kept), **changes)
    rows, skipped = encode(good, chunk(**columns), skip=True)
    desired, _ = encode(good, chunk(**columns).chosen(kept))
    assert skipped == 1
    for name, array in rows.items():
        np.testing.assert_array_equal(array, desired[name])


def test_strict_categories():
    learned = learn(strict=True)
    rows, skipped = encode(learned, chunk())  # a missing one is allowed
    assert len(rows['label']) == 4
    unknown = chunk(city=['Ulm', 'Rome', 'Bonn', 'Oslo'])
    with pytest.raises(
        ConfigError, match=r"^a.csv:3: city = 'Rome': must be a"
    ):
        encode(learned, unknown)
    unknown = chunk(city=['Ulm', 'Rome', 'Bonn', 'Oslo'])
    rows, skipped = encode(learned, unknown, skip=True)
    assert skipped == 2
    assert rows['categorical'].tolist() == [[2], [1]]


def test_class_that_is_not_known():
    learned = learn(chunk(click=list('abab')), labels=(CLASSES,))
    with pytest.raises(ConfigError, match=r"a.csv:4: click = 'c': .* a, b$"):
        encode(learned, chunk(click=list('abca')))
    rows, skipped = encode(learned, chunk(click=list('abca')), skip=True)
    assert rows['label'].tolist() == [[0], [1], [0]]
    assert skipped == 1


def test_a_row_is_left_out_once():
    learned = learn()
    made = chunk(age=['x', 'y', '3', '4'], height=['z', '1', '1', '1'])
    rows, skipped = encode(learned, made, skip=True)
    assert (len(rows['label']), skipped) == (2, 2)


def test_no_rows():
    learned = learn(categorical=(), numeric=('age',), user='city')
    rows, skipped = encode(learned, chunk().chosen(np.zeros(4, bool)))
    assert {name: array.shape for name, array in rows.items()} == {
        'numeric': (0, 1),
        'categorical': (0, 0),
        'label': (0, 1),
        'mask': (0, 1),
        'user': (0,),
    }
    assert skipped == 0


def test_damaged_description():
    plain = json.loads(learn().to_json())
    for changes in (
        {'mean': []},
        {'mean': [float('nan')]},
        {'deviation': ['x']},
        {'deviation': [0.0]},
        {'categories': {}},
        {'categories': {'town': ['Ulm']}},
        {'classes': {'click': ['0']}},
        {'label_mean': {'click': 0.0}},
        {'schema': None},
        {'other': 1},
    ):
        with pytest.raises(ConfigError, match='preprocessing'):
            Preprocessing.from_json(json.dumps({**plain, **changes}))
    # One that was written before labels were transformed is whole.
    for name in ('version', 'label_mean', 'label_deviation'):
        del plain[name]
    assert Preprocessing.from_json(json.dumps(plain)).version == 1

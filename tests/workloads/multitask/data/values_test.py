"""Numbers of cells: exactly what stands there, or nothing."""

import math

import numpy as np
import pytest

from moe.config import ConfigError
from moe.workloads.multitask.data.delimited import Problems
from moe.workloads.multitask.data.values import (
    category,
    is_in,
    number,
    numbers,
)
from tests.workloads.multitask.data.small_table import (
    LABEL,
    REGRESSION,
    chunk,
    encode,
    learn,
)

NO_NUMBERS = [
    '1_000',
    '\uff11\uff12',  # full width
    '\u0661',  # Arabic-Indic
    '1,000',
    '1 000',
    '1\u00a0000',
    'nan',
    'inf',
    '-Infinity',
    '0x10',
    '1e',
    '1e5.0',
    '+-1',
    '--1',
    '.',
    '',
    ' 1',
    '$5',
    '12%',
    '2024-01-05',
    '1+2j',
    'True',
    '\ufeff1',
]


@pytest.mark.parametrize('text', NO_NUMBERS)
def test_no_numbers(text):
    assert number(text) is None
    # Beside numbers that can be read, by the faster way too.
    made = chunk(age=['1', text, '3', '4'])
    with pytest.raises(ConfigError, match=r'^a.csv:3: age = .* plain digits'):
        numbers(made, 'age', ('?',), Problems(False))
    made = chunk(age=['1', text, '3', '4'])
    x = numbers(made, 'age', ('?',), Problems(True))
    np.testing.assert_array_equal(x, [1, math.nan, 3, 4])
    assert made.bad.tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('+5', 5),
        ('-.5', -0.5),
        ('1.', 1),
        ('007', 7),
        ('1E+05', 100_000),
        ('9007199254740992', 2.0**53),
        # Fractions are rounded to the nearest float64, as everywhere.
        ('0.10000000000000000001', 0.1),
    ],
)
def test_numbers(text, value):
    assert number(text) == value
    x = numbers(chunk(age=[text] * 4), 'age', (), Problems(False))
    assert x.tolist() == [value] * 4


def test_whole_numbers_beyond_float64():
    # 2^53 + 1 and an id of 18 digits would be other numbers, 10^18 is itself.
    for text in (
        '9007199254740993',
        '123456789012345678',
        '9007199254740993.0',
    ):
        made = chunk(age=['1', text, '3', '4'])
        with pytest.raises(ConfigError, match=r'a.csv:3: age .*an id'):
            numbers(made, 'age', (), Problems(False))
    made = chunk(age=['1', '1000000000000000000', '3', '4'])
    assert numbers(made, 'age', (), Problems(False))[1] == 1e18


@pytest.mark.parametrize('text', ['9' * 5000, '0' * 5000 + '1', '9' * 300])
def test_numbers_of_many_digits(text):
    # 10^5000 is too great for float64, 10^300 for float32; 1 is 1.
    made = chunk(age=['1', text, '3', '4'])
    if text[-1] == '9':
        with pytest.raises(ConfigError, match=r'a.csv:3: age .*finite'):
            numbers(made, 'age', ('-1',), Problems(False))
    else:
        assert numbers(made, 'age', ('-1',), Problems(False))[1] == 1
    assert is_in([text], ['1']).tolist() == [text[-1] == '1']


def test_missing_numbers_are_compared_as_numbers():
    made = chunk(age=['-999', '-999.0', '?', '9'])
    x = numbers(made, 'age', ('-999', '?'), Problems(False))
    assert np.isnan(x).tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ('text', 'desired'),
    [
        ('3', '3'),
        ('3.0', '3'),
        ('3.', '3'),
        ('-3.00', '-3'),
        ('-0.0', '0'),
        ('0', '0'),
        ('10', '10'),
        ('03.0', '03.0'),
        ('3.10', '3.10'),
        ('3e0', '3e0'),
        ('v3.0', 'v3.0'),
        ('.0', '.0'),
        ('', ''),
        ('\uff13.0', '\uff13.0'),
    ],
)
def test_category(text, desired):
    assert category(text) == desired


def test_is_in():
    values = ['1', '1.0', '+1', '01', '1e0', 'one', '2', '', '1_0', '10']
    found = is_in(values, ('1', 'one'))
    assert found.tolist() == [True] * 6 + [False] * 4
    # 2^53 and 2^53 + 1 are two ids, though one float64.
    found = is_in(
        ['9007199254740993', '9007199254740992'], ['9007199254740992']
    )
    assert found.tolist() == [False, True]
    assert is_in([], ('1',)).tolist() == []


def test_a_word_among_labels_that_are_numbers():
    # Whether TRUE is 1 nobody knows, unless `positive` says so.
    made = chunk(click=['1', '0', 'TRUE', '0'])
    with pytest.raises(ConfigError, match=r"a.csv:4: click = 'TRUE': .*number"):
        learn(made)
    label = {**LABEL, 'target': {'name': 'binary', 'positive': ('1', 'TRUE')}}
    rows, _ = encode(learn(made, labels=(label,)), made)
    assert rows['label'].tolist() == [[1], [0], [1], [0]]


@pytest.mark.parametrize('text', ['TRUE', 'true', 'True.', 'nA'])
def test_a_label_that_is_nearly_another(text):
    # As another program writes it; it is neither 1 nor surely 0.
    target = {'name': 'binary', 'positive': ('True', 'yes')}
    label = {**LABEL, 'target': target}
    changes = {'labels': (label,), 'missing': ('', 'NA')}
    made = chunk(click=['True', 'no', text, 'yes'])
    with pytest.raises(
        ConfigError,
        match=r'a.csv:4: click = .* spelled as one of True, yes, NA$',
    ):
        learn(made, **changes)
    # Where it has a place of its own it is what it is.
    label = {**label, 'target': {**target, 'positive': ('True', text)}}
    made = chunk(click=['True', 'no', text, 'NA'])
    rows, _ = encode(learn(made, **{**changes, 'labels': (label,)}), made)
    assert rows['label'].tolist() == [[1], [0], [1], [0]]
    assert rows['mask'].tolist() == [[True], [True], [True], [False]]


def test_a_sample_space_that_is_nearly_met():
    where = {'column': 'shown', 'values': ('Yes',)}
    made = chunk(shown=['Yes', 'no', 'YES', ''])
    with pytest.raises(ConfigError, match=r"a.csv:4: shown = 'YES'.* of Yes"):
        learn(made, labels=({**LABEL, 'where': where},))
    where = {**where, 'values': ('Yes', 'YES')}
    rows, _ = encode(
        learn(
            chunk(shown=['YES', 'Yes', 'no', 'no']),
            labels=({**LABEL, 'where': where},),
        ),
        made,
    )
    assert rows['mask'].tolist() == [[True], [False], [False], [False]]


def test_labels_beyond_float32():
    # 2^24 + 1 is no float32. Standardised it is a small number: of 2^24 + 1 and
    # three of 2^24 + 5 the mean is 2^24 + 4 and the deviation sqrt(3).
    texts = ['16777217', '16777221', '16777221', '16777221']
    made = lambda: chunk(click=texts)
    with pytest.raises(ConfigError, match=r'a.csv:2: click .* float32 holds'):
        learn(made(), labels=(REGRESSION,))
    target = {'name': 'regression', 'standardize': True}
    label = {**LABEL, 'target': target}
    rows, _ = encode(learn(made(), labels=(label,)), made())
    desired = np.array([-3, 1, 1, 1]) / np.sqrt(3)
    np.testing.assert_allclose(rows['label'][:, 0], desired, rtol=1e-6)


@pytest.mark.parametrize('text', ['-1', '-2'])
def test_labels_without_a_logarithm(text):
    label = {**LABEL, 'target': {'name': 'regression', 'log1p': True}}
    with pytest.raises(ConfigError, match=r'a.csv:3: click .*above -1'):
        learn(chunk(click=['0', text, '2', '3']), labels=(label,))

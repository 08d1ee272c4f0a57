"""Tables from files to batches: splits, memory, errors, new tables."""

import gzip
import shutil
import tracemalloc

import numpy as np
import pytest

from configs import census
from moe.config import ConfigError, parse
from moe.workloads.multitask.data import rows
from moe.workloads.multitask.data.hashing import uniform
from moe.workloads.multitask.data.tables import (
    TableSource,
    apply_table,
    load_table,
)
from tests.workloads.multitask.data.small_table import LABEL, PLAIN, write

HEADER = 'age,city,click,who'
CITIES = ('Bonn', 'Ulm', 'Köln')


def lines(first, last):
    """Rows that their age tells apart."""
    for i in range(first, last):
        yield f'{i},{CITIES[i % 3]},{i % 2},user {i % 5}'


def section(files, schema=(), **changes):
    return {
        'files': files,
        'val_files': '',
        'test_files': '',
        'val_fraction': 0.25,
        'test_fraction': 0.25,
        'split_seed': 0,
        'on_error': 'raise',
        'scratch': '',
        'schema': {**PLAIN, 'user': 'who', **dict(schema)},
        **changes,
    }


def load(files, schema=(), **changes):
    return load_table(parse(TableSource, section(files, schema, **changes)), 4)


def ages(table, part):
    """The ages as they were in the file."""
    learned = table.preprocessing
    x = np.float64(part['numeric'][:, 0])
    return np.round(x * learned.deviation[0] + learned.mean[0]).astype(int)


def test_split_by_hash_of_the_place(tmp_path):
    file = write(tmp_path / 'a.csv', HEADER, *lines(0, 1200))
    table = load(file)
    chance = uniform(np.arange(1200), 0)
    desired = {
        'val': np.flatnonzero(chance < 0.25),
        'test': np.flatnonzero((chance >= 0.25) & (chance < 0.5)),
        'train': np.flatnonzero(chance >= 0.5),
    }
    for name, places in desired.items():
        part = getattr(table, name)
        np.testing.assert_array_equal(ages(table, part), places)
        np.testing.assert_array_equal(part['label'][:, 0], places % 2)
        assert part['mask'].all()
        ids = [None, *table.preprocessing.categories['city']]
        cities = [ids[i] for i in part['categorical'][:, 0]]
        assert cities == [CITIES[i % 3] for i in places]
        same_user = part['user'][:, None] == part['user'][None, :]
        own = (places % 5)[:, None] == (places % 5)[None, :]
        np.testing.assert_array_equal(same_user, own)
    # What is learned is of the training rows alone.
    mean = np.mean(desired['train'])
    np.testing.assert_allclose(table.preprocessing.mean, [mean], rtol=1e-12)
    # Another seed, another split.
    other = load(file, split_seed=1)
    assert len(other.val['label']) != len(table.val['label']) or not (
        np.array_equal(ages(other, other.val), desired['val'])
    )


def test_files_of_their_own(tmp_path):
    train = write(tmp_path / 'a.csv', HEADER, *lines(0, 30))
    # Other columns, and a city that no training row has.
    val = write(tmp_path / 'v.csv', 'city,age,who,click', 'Rome,15,a,1')
    test = tmp_path / 't.csv.gz'
    text = '\n'.join([HEADER, *lines(100, 107)])
    test.write_bytes(gzip.compress(text.encode()))
    table = load(
        train,
        val_files=val,
        test_files=str(test),
        val_fraction=0.0,
        test_fraction=0.0,
    )
    assert ages(table, table.train).tolist() == list(range(30))
    assert ages(table, table.val).tolist() == [15]
    assert table.val['categorical'].tolist() == [[0]]
    assert table.val['label'].tolist() == [[1]]
    assert ages(table, table.test).tolist() == list(range(100, 107))


def test_notes(tmp_path):
    # A copy of the training file validates; ages from 0 to 59 have a root of
    # the mean square of sqrt(59 * 119 / 6) = 34.2.
    train = write(
        tmp_path / 'a.csv',
        HEADER + ',spent',
        *(f'{row},{i}' for i, row in enumerate(lines(0, 60))),
    )
    copy = shutil.copy(train, tmp_path / 'v.csv')
    target = {'name': 'regression'}
    spent = {**LABEL, 'name': 'spent', 'column': 'spent', 'target': target}
    given = {'val_files': str(copy), 'val_fraction': 0.0, 'test_fraction': 0.0}
    told = load(train, {'labels': (LABEL, spent)}, **given).notes()
    assert [line.split(':')[0] for line in told] == [
        f'{train} has rows to train on, and to validate or test on',
        'labels of spent are of the size 34.2',
    ]
    for labels in (
        (spent,),
        (LABEL, {**spent, 'target': {**target, 'standardize': True}}),
        (LABEL, {**spent, 'target': {**target, 'log1p': True}}),
    ):
        assert load(train, {'labels': labels}).notes() == []


def test_no_test_rows(tmp_path):
    file = write(tmp_path / 'a.csv', HEADER, *lines(0, 60))
    table = load(file, test_fraction=0.0)
    assert {name: len(array) for name, array in table.test.items()} == {
        'numeric': 0,
        'categorical': 0,
        'label': 0,
        'mask': 0,
        'user': 0,
    }


def test_no_numbers_or_no_categories(tmp_path):
    file = write(tmp_path / 'a.csv', HEADER, *lines(0, 60))
    whole = load(file)
    for name in ('numeric', 'categorical'):
        table = load(file, {name: ()})
        assert table.train[name].shape == (len(whole.train['label']), 0)
        np.testing.assert_array_equal(
            table.train['label'], whole.train['label']
        )


def test_batches(tmp_path):
    file = write(tmp_path / 'a.csv', HEADER, *lines(0, 60))
    table = load(file)
    batch = next(rows.train_batches(table.train, 4, seed=0))
    assert {n: (a.dtype.name, a.shape) for n, a in batch.items()} == {
        'numeric': ('float32', (4, 1)),
        'categorical': ('int32', (4, 1)),
        'label': ('float32', (4, 1)),
        'mask': ('bool', (4, 1)),
        'user': ('int32', (4,)),
        'valid': ('bool', (4,)),
    }
    valid = [b['valid'] for b in rows.val_batches(table.val, 4)]
    assert np.sum(valid) == len(table.val['label'])


def test_memory_does_not_grow_with_rows(tmp_path):
    peaks = []
    for count in (2000, 16_000):
        file = write(tmp_path / f'{count}.csv', HEADER, *lines(0, count))
        tracemalloc.start()
        try:
            table = load(file)
            batch = next(rows.train_batches(table.train, 4, seed=0))
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert batch['numeric'].shape == (4, 1)
        del table
    # The 14,000 rows more are 300 kB as text and as numbers.
    assert peaks[1] < peaks[0] + 100_000


def test_scratch(tmp_path):
    file = write(tmp_path / 'a.csv', HEADER, *lines(0, 60))
    folder = tmp_path / 'scratch'
    with pytest.raises(ConfigError) as caught:
        load(file, scratch=str(folder))
    assert caught.value.field == 'config.data.source.scratch'
    folder.mkdir()
    table = load(file, scratch=str(folder))
    # Nothing is left behind, and the rows are still there.
    assert list(folder.iterdir()) == []
    assert np.sum(table.train['mask']) == len(table.train['label'])


def test_skipped_rows(tmp_path):
    bad = ['7,Ulm', 'x,Ulm,1,me', '?,Ulm,1,me', '8,Ulm,1,me,you']
    good = list(lines(0, 60))
    file = write(tmp_path / 'a.csv', HEADER, *good, *bad)
    table = load(file, on_error='skip')
    # One too short, one too long, and one of no number.
    assert table.skipped == 3
    parts = (table.train, table.val, table.test)
    assert sum(len(part['label']) for part in parts) == 61
    with pytest.raises(ConfigError, match=r'a.csv:62 = .* 4 columns'):
        load(file)
    file = write(tmp_path / 'a.csv', HEADER, *good, *bad[1:3])
    with pytest.raises(ConfigError, match=r"a.csv:62: age = 'x': must be a"):
        load(file)
    assert load(file, on_error='skip').skipped == 1


def test_skipped_rows_move_no_others(tmp_path):
    good = list(lines(0, 300))
    file = write(tmp_path / 'a.csv', HEADER, *good)
    whole = load(file)
    some = ['x' + r if i % 7 == 3 else r for i, r in enumerate(good)]
    file = write(tmp_path / 'a.csv', HEADER, *some)
    table = load(file, on_error='skip')
    assert table.skipped == 43  # 3, 10, ... 297
    for name in ('train', 'val', 'test'):
        places = ages(whole, getattr(whole, name))
        kept = places[places % 7 != 3]
        np.testing.assert_array_equal(ages(table, getattr(table, name)), kept)


def test_fingerprint(tmp_path):
    file = write(tmp_path / 'a.csv', HEADER, *lines(0, 60))
    first = load(file).fingerprint
    assert load(file).fingerprint == first
    # It is the same text wherever it lies.
    other = write(tmp_path / 'b.csv', HEADER, *lines(0, 60))
    assert load(other).fingerprint == first
    assert load(file, split_seed=1).fingerprint != first
    assert load(file, val_fraction=0.3).fingerprint != first
    assert load(file, {'min_count': 2}).fingerprint != first
    other = write(tmp_path / 'b.csv', HEADER, *lines(0, 59), '59,Ulm,1,me')
    assert load(other).fingerprint != first


def test_new_table(tmp_path):
    file = write(tmp_path / 'a.csv', HEADER, *lines(0, 60))
    table = load(file)
    # Another order, no labels and no users.
    new = write(tmp_path / 'n.csv', 'x,city,age', '0,Ulm,7', '0,Oslo,')
    made, left_out = apply_table(table.preprocessing, new)
    assert left_out.count == 0
    assert ages(table, made)[0] == 7
    assert made['numeric'][1, 0] == 0
    ulm = 1 + table.preprocessing.categories['city'].index('Ulm')
    assert made['categorical'].tolist() == [[ulm], [0]]
    assert not made['mask'].any()
    # The rows of the training come out as they were, in their order.
    made, _ = apply_table(table.preprocessing, file)
    kept = uniform(np.arange(60), 0) >= 0.5
    for name, array in table.train.items():
        np.testing.assert_array_equal(made[name][kept], array)
    # No header, and columns of its own.
    new = write(tmp_path / 'n.csv', 'Ulm,7', 'Bonn,x')
    made, left_out = apply_table(
        table.preprocessing, new, columns=('city', 'age'), on_error='skip'
    )
    assert (left_out.count, left_out.places) == (1, [f'{new}:2'])
    places = {n: made[n].tolist() for n in ('row', 'file', 'line')}
    assert places == {'row': [1], 'file': [0], 'line': [1]}
    assert ages(table, made).tolist() == [7]
    with pytest.raises(ConfigError, match=r"n.csv:2: age = 'x'"):
        apply_table(table.preprocessing, new, columns=('city', 'age'))
    with pytest.raises(ConfigError, match=r"columns with 'age' once"):
        apply_table(table.preprocessing, new)


@pytest.mark.parametrize(
    ('count', 'changes', 'field', 'words'),
    [
        (6, {}, 'config.data.source.files', 'batch_size = 4'),
        (60, {'files': 'no.csv'}, 'config.data.source.files', 'no such file'),
        (
            60,
            {'test_files': 'no.csv'},
            'config.data.source.test_files',
            'no such',
        ),
        (60, {'val_fraction': 0.0}, 'config.val_fraction', 'above 0'),
        (
            60,
            {'val_fraction': 1e-9},
            'config.data.source.files',
            'to validate on',
        ),
        (60, {'val_files': 'a'}, 'config.val_fraction', '0 with val_files'),
        (60, {'val_fraction': 0.7}, 'config.test_fraction', 'at most 0.9'),
        (60, {'on_error': 'warn'}, 'config.on_error', "'raise', 'skip'"),
    ],
)
def test_refused(tmp_path, count, changes, field, words):
    file = write(tmp_path / 'a.csv', HEADER, *lines(0, count))
    if changes.get('test_files'):
        changes = {**changes, 'test_fraction': 0.0}
    with pytest.raises(ConfigError) as caught:
        load(**{'files': file, 'schema': {}, **changes})
    assert caught.value.field == field
    assert words in caught.value.allowed
    assert '\n' not in str(caught.value)


def test_label_column_must_be_there(tmp_path):
    file = write(tmp_path / 'a.csv', HEADER, *lines(0, 60))
    label = {**LABEL, 'column': 'sale'}
    with pytest.raises(ConfigError, match=r"a.csv = .* columns with 'sale'"):
        load(file, {'labels': (label,)})


def census_row(**changes):
    """A row of the census table, all columns given."""
    values = dict.fromkeys(census.COLUMNS, 'Not in universe')
    values |= dict.fromkeys(census.NUMERIC, '0')
    values |= {'income': '- 50000.', 'instance weight': '1032.38'}
    values |= {'marital stat': 'Divorced', 'education': 'Children'}
    return ', '.join((values | changes).values())


def test_census(tmp_path):
    # As in the file: blanks after commas, a blank in the end, question marks.
    some = [
        census_row(
            age='38', **{'income': '50000+.', 'country of birth self': '?'}
        ),
        census_row(age='2', **{'marital stat': 'Never married'}),
        census_row(age='44', citizenship='Not a citizen of U S '),
        census_row(age='9', **{'marital stat': 'Never married'}),
    ]
    path = tmp_path / 'census.gz'
    path.write_bytes(gzip.compress('\n'.join(some * 5).encode()))
    source = {**census.source(), 'files': str(path), 'test_fraction': 0.25}
    del source['name']
    table = load_table(parse(TableSource, source), 4)
    learned = table.preprocessing
    assert table.train['numeric'].shape[1] == 7
    # 42 columns but the numbers, two labels, education and the weight.
    assert table.train['categorical'].shape[1] == 42 - 7 - 2 - 2
    assert learned.categories['citizenship'][1] == 'Not a citizen of U S'
    assert '?' in learned.categories['country of birth self']
    place = np.flatnonzero(uniform(np.arange(20), 0) >= 0.45) % 4
    desired = np.stack([place == 0, place % 2 == 1], axis=1)
    np.testing.assert_array_equal(table.train['label'], desired)
    assert table.train['mask'].all()


def test_census_columns():
    # Places from the description of the table, from 1.
    places = {
        'age': 1,
        'education': 5,
        'marital stat': 8,
        'sex': 13,
        'dividends from stocks': 19,
        'instance weight': 25,
        'citizenship': 36,
        'weeks worked in year': 40,
        'income': 42,
    }
    for name, place in places.items():
        assert census.COLUMNS[place - 1] == name
    assert len(census.COLUMNS) == 42

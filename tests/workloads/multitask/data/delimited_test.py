"""Reading delimited files: what comes back, and what is told of errors."""

import csv
import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.config import ConfigError
from moe.workloads.data_files import matching
from moe.workloads.multitask.data.delimited import Problems, read_chunks
from tests.workloads.multitask.data.small_table import schema, write

HEADER = 'age,city,click'


def read(*files, skip=False, required=(), names=(), **changes):
    """Columns, lines and numbers of all rows, and how many were left out."""
    problems = Problems(skip)
    chunks = list(
        read_chunks(files, schema(**changes), problems, required, names)
    )
    columns = {
        name: [v for c in chunks for v in c.columns[name]]
        for name in chunks[0].columns
    }
    lines = [n for c in chunks for n in c.lines]
    number = [n for c in chunks for n in c.number.tolist()]
    return columns, lines, number, problems.count


def test_header_and_lines(tmp_path):
    file = write(tmp_path / 'a.csv', HEADER, '1,Bonn,0', '', ' 2 , Ulm ,1')
    columns, lines, number, skipped = read(file)
    assert columns == {
        'age': ['1', '2'],
        'city': ['Bonn', 'Ulm'],
        'click': ['0', '1'],
    }
    # The blank line is no row, though it is a line.
    assert (lines, number, skipped) == ([2, 4], [0, 1], 0)
    columns, *_ = read(file, strip=False)
    assert columns['city'] == ['Bonn', ' Ulm ']
    # Names have blanks around them as values have.
    file = write(tmp_path / 'a.csv', ' age , city ,click', '1,Bonn,0')
    assert list(read(file)[0]) == ['age', 'city', 'click']


def test_blanks_that_part_columns(tmp_path):
    # Two are around a value that is missing.
    file = write(tmp_path / 'a.csv', 'age city click', '1 Bonn 0', '2  1')
    columns, *_ = read(file, delimiter=' ')
    assert columns['city'] == ['Bonn', '']


def test_columns_of_the_schema(tmp_path):
    # No header; `zip` is ignored.
    file = write(tmp_path / 'a.csv', '0|1|x|Bonn', '1|2|y|Ulm')
    columns, lines, *_ = read(
        file, columns=('click', 'age', 'zip', 'city'), delimiter='|'
    )
    assert columns == {
        'age': ['1', '2'],
        'city': ['Bonn', 'Ulm'],
        'click': ['0', '1'],
    }
    assert lines == [1, 2]
    # Names given for these files alone.
    columns, *_ = read(file, delimiter='|', names=('a', 'city', 'b', 'age'))
    assert columns == {'age': ['Bonn', 'Ulm'], 'city': ['1', '2']}


def test_quotes(tmp_path):
    file = write(
        tmp_path / 'a.csv', HEADER, '1,"Rome, ""old""\ntown",0', '2, "Ulm",1'
    )
    columns, lines, *_ = read(file, multiline=True)
    assert columns['city'] == ['Rome, "old"\ntown', 'Ulm']
    assert lines == [2, 4]  # where a row begins
    file = write(tmp_path / 'b.csv', HEADER, '1,6" Bonn,0', "2,'Ulm,1")
    assert read(file, quote='')[0]['city'] == ['6" Bonn', "'Ulm"]


# Rows of which one has a quote that nobody closes; or two, rows apart.
STRAY = ['1,Bonn,0', '2,"Ulm,1', '3,Trier,1', '4,"Köln,0', '5,Rome,1']


def test_quotes_that_are_not_closed_on_their_line(tmp_path):
    file = write(tmp_path / 'a.csv', HEADER, *STRAY)
    with pytest.raises(ConfigError, match=r'a.csv:3 = .* closed on its line'):
        read(file)
    # All other rows are kept, and keep their numbers.
    columns, lines, number, skipped = read(file, skip=True)
    assert columns['age'] == ['1', '3', '5']
    assert (lines, number, skipped) == ([2, 4, 6], [0, 2, 4], 2)
    file = write(tmp_path / 'a.csv', HEADER, *STRAY[:3])
    columns, *_, skipped = read(file, skip=True)
    assert (columns['age'], skipped) == (['1', '3'], 1)
    # Where values may span lines these three are one row of two columns.
    file = write(tmp_path / 'a.csv', HEADER, *STRAY)
    with pytest.raises(ConfigError, match=r'a.csv:3 = '):
        read(file, multiline=True)
    columns, *_, skipped = read(file, skip=True, multiline=True)
    assert (columns['age'], skipped) == (['1', '5'], 3)
    # One that is never closed takes all lines after it, and they are counted.
    file = write(tmp_path / 'a.csv', HEADER, *STRAY[:3])
    columns, *_, skipped = read(file, skip=True, multiline=True)
    assert (columns['age'], skipped) == (['1'], 2)


TEXT = st.text(
    st.characters(exclude_categories=['Cs'], exclude_characters='\0'),
    max_size=5,
)


@given(st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=5))
def test_what_was_written_is_read(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp('table') / 'a.csv'
    with path.open('w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file, delimiter=';', quoting=csv.QUOTE_ALL)
        writer.writerows([HEADER.split(','), *rows])
    columns, *_ = read(str(path), delimiter=';', strip=False, multiline=True)
    assert [*zip(*columns.values(), strict=True)] == rows


def test_ends_of_lines_and_mark(tmp_path):
    path = tmp_path / 'a.csv'
    path.write_bytes(b'\xef\xbb\xbfage,city,click\r\n1,K\xc3\xb6ln,0\r\n')
    columns, *_ = read(str(path))
    assert columns == {'age': ['1'], 'city': ['Köln'], 'click': ['0']}


def test_many_files_in_order(tmp_path):
    # More rows than a chunk, of a compressed file and one with other columns.
    with gzip.open(tmp_path / 'a.csv.gz', 'wt') as file:
        rows = (f'{i},Bonn,0\n' for i in range(1500))
        file.writelines([HEADER + '\n', *rows])
    write(tmp_path / 'b.csv', 'x,click,age,city', *['7,1,9,Ulm'] * 3)
    (tmp_path / 'c.csv').mkdir()
    files = matching(str(tmp_path / '*.csv*'), 'config.data.files')
    assert files == [str(tmp_path / n) for n in ('a.csv.gz', 'b.csv')]
    columns, lines, number, _ = read(*files)
    assert columns['age'] == [str(i) for i in range(1500)] + ['9'] * 3
    assert columns['city'] == ['Bonn'] * 1500 + ['Ulm'] * 3
    assert lines == [*range(2, 1502), 2, 3, 4]
    assert number == list(range(1503))


def test_columns_that_need_not_be(tmp_path):
    file = write(tmp_path / 'a.csv', 'city,age', 'Bonn,1')
    columns, *_ = read(file, required=('age', 'city'))
    assert columns == {'age': ['1'], 'city': ['Bonn']}
    with pytest.raises(ConfigError, match=r"columns with 'click' once$"):
        read(file, required=('age', 'click'))


@pytest.mark.parametrize(
    ('row', 'words'),
    [
        ('2,Ulm', "a.csv:3 = '2,Ulm': must be 3 columns (there are 2)"),
        ('2,Ulm,1,', 'must be 3 columns (there are 4)'),
        ('2,"' + 'x' * 140_000 + '",1', "a.csv:3 = '': must be a row that"),
        ('x' * 3_000_000, "a.csv:3 = '': must be a line of at most 1048576"),
        ('2,"Ulm"x,1', "a.csv:3 = '': must be a row that can be read"),
        ('2,Ulm,1\0', "a.csv:3 = '': must be text without NUL"),
        (HEADER, "a.csv:3 = 'age,city,click': must be a row of values, not"),
    ],
)
def test_rows_that_cannot_be_read(tmp_path, row, words):
    file = write(tmp_path / 'a.csv', HEADER, '1,Bonn,0', row, '3,Trier,1')
    with pytest.raises(ConfigError) as caught:
        read(file)
    assert words in str(caught.value)
    assert '\n' not in str(caught.value)
    columns, lines, number, skipped = read(file, skip=True)
    assert columns['city'][0] == 'Bonn'
    assert columns['city'][-1] == 'Trier'
    assert (lines[-1], number, skipped) == (4, [0, 2], 1)


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (b'', 'rows (it has none)'),
        (b'\n\n', 'rows (it has none)'),
        (b'age,city,click\n', 'rows (it has none)'),
        (b'age,town,click\n1,Bonn,0\n', "columns with 'city' once"),
        (b'age,city,city,click\n1,Bonn,Bonn,0\n', "columns with 'city' once"),
        (b'age,' + b'c' * 140_000, 'a row that can be read'),
        (b'age,city,cl\xefck\n1,Ulm,0\n', 'UTF-8 (character 12 is not)'),
        (b'age,"city,click\n1,Ulm,0\n', 'closed on its line'),
        ('age,city\n1,Ulm\n'.encode('utf-16'), 'it is text in UTF-16'),
        (b'PAR1\0\0\0', 'it is a Parquet file'),
        (b'PK\x03\x04', 'it is a zip archive'),
    ],
)
@pytest.mark.parametrize('skip', [False, True])
def test_files_that_cannot_be_read(tmp_path, content, words, skip):
    path = tmp_path / 'a.csv'
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read(str(path), skip=skip, required=('age', 'city'))
    assert str(path) in caught.value.field
    assert words in caught.value.allowed


def test_bytes_that_are_no_utf8(tmp_path):
    path = tmp_path / 'a.csv'
    path.write_bytes(b'age,city,click\n1,K\xf6ln,0\n2,Ulm,1\n')
    with pytest.raises(ConfigError, match=r'a.csv:2 = .*UTF-8 \(character 4'):
        read(str(path))
    columns, *_, skipped = read(str(path), skip=True)
    assert (columns['city'], skipped) == (['Ulm'], 1)


def test_mixed_ends_of_lines(tmp_path):
    path = tmp_path / 'a.csv'
    path.write_bytes(b'age,city,click\n1,Bonn,0\r\n2,Ulm,1\r3,Trier,0')
    columns, lines, *_ = read(str(path))
    assert columns['city'] == ['Bonn', 'Ulm', 'Trier']
    assert lines == [2, 3, 4]


@pytest.mark.parametrize('cut', ['short', 'flipped'])
def test_damaged_compression(tmp_path, cut):
    path = tmp_path / 'a.csv.gz'
    data = bytearray(gzip.compress(b'age,city,click\n' + b'1,Bonn,0\n' * 5000))
    if cut == 'short':
        data = data[:-20]
    else:
        data[-20] ^= 255
    path.write_bytes(data)
    with pytest.raises(ConfigError, match='a file that can be read'):
        read(str(path))


def test_chosen_rows(tmp_path):
    file = write(tmp_path / 'a.csv', HEADER, *[f'{i},Bonn,0' for i in range(4)])
    (chunk,) = read_chunks([file], schema(), Problems(False), ())
    chunk.bad[3] = True
    some = chunk.chosen(np.array([False, True, False, True]))
    assert some.columns['age'] == ['1', '3']
    assert some.lines == [3, 5]
    assert some.number.tolist() == [1, 3]
    assert some.bad.tolist() == [False, True]

"""Where metrics go: lines of JSON and TensorBoard's events."""

import itertools
import json
import struct

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from moe.metrics import (
    Writer,
    columns,
    newest_metrics,
    read_metrics,
    read_spread,
)


def records(workdir):
    """The events of TensorBoard's files."""
    found = []
    for path in sorted((workdir / 'tensorboard').iterdir()):
        data = path.read_bytes()
        while data:  # length, checksum, event, checksum
            (size,) = struct.unpack('<Q', data[:8])
            found.append(event_pb2.Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def events(workdir):
    """What TensorBoard reads: (step, tag, scalar or kind) of every value."""
    found = []
    for event in records(workdir):
        for value in event.summary.value:
            kind = value.WhichOneof('value')
            shown = value.simple_value if kind == 'simple_value' else kind
            found.append((event.step, value.tag, shown))
    return found


def write(workdir, steps, start=0):
    writer = Writer(workdir, start)
    for step in steps:
        writer.write_scalars(step, {'train/loss': step / 4})
    writer.close()


def steps(workdir):
    return [m['step'] for m in read_metrics(workdir / 'metrics.jsonl')]


def test_every_sink(tmp_path):
    writer = Writer(tmp_path, 0)
    writer.write_scalars(3, {'train/loss': 0.5, 'moe/load': [1.0, 3.0]})
    # A line is whole as soon as it is written: a reader need not wait.
    lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {'step': 3, 'train/loss': 0.5, 'moe/load': [1.0, 3.0]}
    ]
    writer.write_texts(4, {'sample': 'def x'})
    writer.close()
    found = events(tmp_path)
    assert (3, 'train/loss', 0.5) in found
    assert (3, 'moe/load', 'histo') in found
    assert [(s, t) for s, t, _ in found if 'sample' in t] == [
        (4, 'sample/text_summary')
    ]


def test_a_continued_run_drops_what_it_will_write_again(tmp_path):
    # Cut off after step 5, its newest checkpoint of step 3.
    write(tmp_path, [1, 2, 3, 4, 5])
    write(tmp_path, [4, 5, 6], start=3)
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6]
    # Each process has its own file of events.
    assert len(list((tmp_path / 'tensorboard').iterdir())) == 2


@pytest.mark.parametrize('rest', ['{"step": 3, "tr', '{', '{"step": 3}\n{"st'])
def test_a_last_line_cut_off_is_left_out(tmp_path, rest):
    write(tmp_path, [1, 2])
    path = tmp_path / 'metrics.jsonl'
    path.write_text(path.read_text() + rest)
    assert steps(tmp_path)[:2] == [1, 2]
    write(tmp_path, [3, 4], start=2)
    assert steps(tmp_path) == [1, 2, 3, 4]


def test_only_one_process_writes(tmp_path):
    writer = Writer(tmp_path, 0, active=False)
    writer.write_scalars(1, {'train/loss': 1.0})
    writer.write_texts(1, {'sample': 'x'})
    writer.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('text', 'newest'),
    [
        ('', {}),
        ('{"step": 1}\n', {'step': 1}),
        ('{"step": 1}\n{"step": 2}\n', {'step': 2}),
        # Cut off in writing, in the middle of a character.
        ('{"step": 1}\n{"step": 2, "na', {'step': 1}),
        ('{"step', {}),
        # What is JSON, and no line of metrics.
        ('{"step": 1}\n{"loss": 2}\n[3]\n{"step": 4, "a": "b"}\n', {'step': 1}),
        # Longer than what is read at first, before and as the last line.
        (f'{{"step": 1, "{70_000 * "x"}": 0}}\n{{"step": 2}}\n', {'step': 2}),
        (
            f'{{"step": 1}}\n{{"step": 2, "{300_000 * "x"}": 0}}\n',
            {'step': 2, 300_000 * 'x': 0},
        ),
    ],
    ids=range(8),
)
def test_newest(tmp_path, text, newest):
    path = tmp_path / 'metrics.jsonl'
    path.write_text(text)
    assert newest_metrics(path) == newest
    assert (read_metrics(path) or [{}])[-1] == newest


def test_columns():
    # Metrics that are not in every line; one with a value an expert.
    found = columns(
        [
            {'step': 1, 'a': 2.0, 'b': [1, 2]},
            {'step': 3, 'a': float('nan')},
            {'step': 4, 'b': [3, 4], 'c': 5},
        ]
    )
    assert list(found) == ['a', 'b', 'c']
    assert found['a'].steps.tolist() == [1, 3]
    np.testing.assert_array_equal(found['a'].values, [2, np.nan])
    assert found['b'].steps.tolist() == [1, 4]
    assert found['b'].values.tolist() == [[1, 2], [3, 4]]
    assert found['b'].last.tolist() == [3, 4]
    assert found['c'].last == 5
    assert columns([]) == {}


@pytest.mark.parametrize(
    'garbage',
    [b'{"step": 3, "train/lo', b'\x00\x00\x00', b'\xff\xfe', b'null', b''],
    ids=range(5),
)
def test_only_the_broken_line_is_lost(tmp_path, capsys, garbage):
    path = tmp_path / 'metrics.jsonl'
    write(tmp_path, [1, 2, 3, 4, 5])
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = garbage + b'\n'
    path.write_bytes(b''.join(lines))
    assert steps(tmp_path) == [1, 2, 4, 5]
    told = f'{path}: 1 broken line(s) left out: 3\n'
    assert capsys.readouterr().err == told
    # A run that goes on from step 4 keeps the good ones, and says so.
    write(tmp_path, [5, 6], start=4)
    assert capsys.readouterr().err == told
    assert steps(tmp_path) == [1, 2, 4, 5, 6]
    assert capsys.readouterr().err == ''


def test_an_evaluation_that_comes_later_joins_its_line(tmp_path):
    write(tmp_path, [1, 2])
    writer = Writer(tmp_path, 2)
    assert not writer.evaluated
    writer.complete(2, {'eval/loss': 3.0})
    writer.close()
    writer = Writer(tmp_path, 2)
    assert writer.evaluated
    writer.close()
    assert read_metrics(tmp_path / 'metrics.jsonl') == [
        {'step': 1, 'train/loss': 0.25},
        {'step': 2, 'train/loss': 0.5, 'eval/loss': 3.0},
    ]


def test_lines_of_a_long_run_are_read_evenly(tmp_path):
    # A thousand lines, an evaluation in every hundredth; the first and the
    # last line are always there, though the last one is being written.
    path = tmp_path / 'metrics.jsonl'
    lines = [{'step': i, 'x': 0.5} for i in range(1, 1001)]
    for line in lines[99::100]:
        line['eval/loss'] = 1.0
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    path.write_text(text + '{"step": 1001, "x"')
    assert read_spread(path, 2**20) == lines
    some = read_spread(path, len(text) // 10)
    steps = [line['step'] for line in some]
    assert steps[0] == 1
    assert steps[-1] == 1000
    assert [s for s in steps if s % 100 == 0] == list(range(100, 1001, 100))
    others = [s for s in steps if s % 100]
    assert 80 < len(others) < 130
    assert max(b - a for a, b in itertools.pairwise(others)) < 15

"""Long work shows that it goes on; short work shows nothing in a log."""

import io
import sys
import time

import pytest

from moe import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def until(stream, text):
    end = time.monotonic() + 20
    while text not in stream.getvalue():
        assert time.monotonic() < end, stream.getvalue()
        time.sleep(0.01)


def test_one_line_that_is_updated(monkeypatch):
    monkeypatch.setattr(sys, 'stderr', stream := Terminal())
    monkeypatch.setattr(progress, '_LIVE', 0.01)
    with progress.shown('evaluation', 1200, 'batches') as reach:
        until(stream, '\revaluation, 0m00s')
        reach(1100)
        until(stream, '\revaluation, 1,100 of 1,200 batches, 0m00s')
    # The line is gone at the end.
    assert '\n' not in stream.getvalue()
    assert stream.getvalue().endswith(' \r')


def test_sparse_lines_of_a_log(monkeypatch):
    monkeypatch.setattr(sys, 'stderr', stream := io.StringIO())
    with progress.shown('loading data') as reach:
        reach(3)
    assert stream.getvalue() == ''  # it took no time
    monkeypatch.setattr(progress, '_SPARSE', 0.01)
    with progress.shown('loading data', unit='rows') as reach:
        reach(3)
        until(stream, 'loading data, 3 rows, 0m00s\n')


def test_of_one_process_alone_and_through_errors(monkeypatch):
    monkeypatch.setattr(sys, 'stderr', stream := Terminal())
    monkeypatch.setattr(progress, '_LIVE', 0.01)
    with progress.shown('x', active=False):
        time.sleep(0.05)
    assert stream.getvalue() == ''

    def fails():
        with progress.shown('loading data'):
            until(stream, 'loading data')
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert stream.getvalue().endswith('\r')

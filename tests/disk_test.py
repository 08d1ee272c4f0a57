"""A full disk is told in one line, by whom waits for what wrote."""

import errno
import logging
import sys
import threading

from moe import disk

FULL = OSError(errno.ENOSPC, 'No space left on device', 'a')


def test_failures():
    assert disk.failure(FULL) == "'a': No space left on device"
    native = "OUT_OF_RANGE: Error writing: File too large [os_error_code='27']"
    assert disk.failure(ValueError(native)) == 'File too large'
    assert disk.failure(ValueError("[os_error_code='2']")) is None
    assert disk.failure(OSError(errno.EPIPE, 'pipe')) is None
    assert disk.failure(None) is None
    later = RuntimeError('another')
    later.__context__ = FULL
    assert disk.failure(later) == disk.failure(FULL)


def test_threads_do_not_tell_them(capsys, monkeypatch):
    shown = lambda failed: print(failed.exc_value, file=sys.stderr)
    monkeypatch.setattr(threading, 'excepthook', shown)

    def fails(error):
        def run():
            logging.getLogger('absl').error('failed', exc_info=error)
            raise error

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return capsys.readouterr().err

    with disk.told_once():
        assert fails(FULL) == ''
        assert fails(RuntimeError('Event loop is closed')) == ''
        assert 'other' in fails(KeyError('other'))
    assert 'No space' in fails(FULL)
    assert threading.excepthook is shown

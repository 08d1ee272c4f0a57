"""Speed and time left: of training alone."""

import itertools
import time

from moe.training.clock import Clock
from tests.training.evaluation_test import Sums


def test_speed_and_time_left(monkeypatch):
    # 50 steps of 3 tokens; the clock is read at these seconds.
    times = itertools.chain([4.0, 10.0, 11.0, 31.0, 40.0])
    monkeypatch.setattr(time, 'perf_counter', lambda: next(times))
    workload = Sums()
    workload.units_per_step = 3
    clock = Clock(50, workload)
    values = {'train/loss': 2.0}
    # The first step, over at 4 s, is with compilation: it tells no speed.
    clock.reached(1)
    assert clock.speed() == {}
    assert clock.line(1, values) == 'step  1/50  loss 2.0000'
    # 6 steps in 6 seconds; 43 are left.
    clock.reached(7)
    values |= clock.speed() | {'moe/layer_0/load_max': 1.5}
    assert values['train/tokens_per_second'] == 3
    assert clock.line(7, values) == (
        'step  7/50  loss 2.0000  3 tokens/s  0m43s left  max load 1.50'
    )
    # An evaluation from 11 s to 31 s does not count: step 12 is over at 40 s,
    # after 10 s of training for 5 steps; 38 are left.
    with clock.stopped():
        pass
    clock.reached(12)
    values |= clock.speed()
    assert '  2 tokens/s  1m16s left  ' in clock.line(12, values)
    # What was over before is no later for being said again.
    clock.reached(11)
    assert clock.speed() == {'train/tokens_per_second': 1.5}


def test_share_of_waiting_for_data(monkeypatch):
    # The first step waits from 0 s to 3 s, and is over at 4 s; the next two
    # wait 1 s and 2 s of the 12 s until 16 s.
    times = itertools.chain([0.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 16.0])
    monkeypatch.setattr(time, 'perf_counter', lambda: next(times))
    clock = Clock(50, Sums())
    with clock.waiting():
        pass
    clock.reached(1)
    assert clock.speed() == {}
    for _ in range(2):
        with clock.waiting():
            pass
    clock.reached(3)
    assert clock.speed()['cost/data_wait'] == 0.25

"""Cases take turns; one that fails stops no other."""

import math

import pytest

from benchmarks.timing import Case, Timing, measure, medians


def counted(name, log, **options):
    """A case that writes its name down whenever it is built or called."""

    def build():
        log.append(f'build {name}')
        return lambda: log.append(name)

    return Case(name, build, **options)


def test_cases_take_turns_and_each_round_begins_with_another():
    log = []
    measure([counted(n, log) for n in 'abc'], rounds=4)
    assert log[:6] == ['build a', 'a', 'build b', 'b', 'build c', 'c']
    assert ''.join(log[6:]) == 'abc' + 'bca' + 'cab' + 'abc'


def test_as_many_times_as_rounds_and_the_first_call_is_none():
    ((_, timing),) = measure([counted('a', [])], rounds=3)
    assert len(timing.seconds) == 3


def test_a_long_call_is_made_once():
    log = []
    ((_, timing),) = measure([counted('a', log)], rounds=3, long=0.0)
    assert log == ['build a', 'a']
    assert len(timing.seconds) == 1


def test_a_case_that_raises_says_so_and_the_others_run():
    def build():
        raise ValueError('no\nsuch thing')

    log = []
    found = measure(
        [
            Case('bad', build),
            Case('absent', build, not_run='not installed'),
            counted('good', log),
        ],
        rounds=2,
    )
    bad, absent, good = (timing for _, timing in found)
    assert (bad.not_run, bad.failed) == ('ValueError: no such thing', True)
    assert (absent.not_run, absent.failed) == ('not installed', False)
    assert bad.seconds == absent.seconds == ()
    assert len(good.seconds) == 2


def test_first_results_are_digested():
    results = iter([3.0, 4.0])
    case = Case('a', lambda: lambda: next(results))
    ((_, timing),) = measure([case], 1, digest=lambda x: (2 * x,))
    assert timing.digest == (6.0,)


def test_a_call_that_repeats_the_work_counts_once(monkeypatch):
    # Four times 1 second of work in a call: the clock goes 4 s a call.
    times = iter(4.0 * i for i in range(100))
    monkeypatch.setattr('time.perf_counter', lambda: next(times))
    ((_, timing),) = measure([counted('a', [], repeats=4)], rounds=2)
    assert timing.seconds == (1.0, 1.0)


def test_quartiles():
    # Of 1 to 5 the halves, with the median in both, have medians 2 and 4.
    timing = Timing((5.0, 1.0, 4.0, 2.0, 3.0))
    assert timing.median == 3.0
    assert timing.quartiles == (2.0, 4.0)
    assert Timing((7.0,)).quartiles == (7.0, 7.0)


def test_medians_raise_what_a_call_does():
    def fail():
        raise ValueError('no')

    with pytest.raises(RuntimeError, match='bad: ValueError: no'):
        medians({'bad': fail}, 1)
    assert math.isfinite(medians({'good': lambda: 1}, 2)['good'])

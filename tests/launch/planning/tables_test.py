"""Plans as text."""

import dataclasses
import functools

from launch.planning import measured, tables
from tests.launch.planning.runs import made


def test_table():
    text = tables.table(made())
    assert 'v5p:4x4x8: 128 chips, mesh data 4 x fsdp 32\n' in text
    assert '3.00B parameters, 1.00B active' in text
    assert 'sum                   3.00 of 95: fits\n' in text
    assert '(50% useful)' in text
    assert '  all overlapped       4.000  MFU 0.500, 1,000 tokens/s\n' in text
    assert '  none overlapped      4.000  MFU 0.500, 1,000 tokens/s\n' in text
    assert 'kernels at their peaks, no latency: nothing is faster' in text
    assert '  moe, recomputed            0.750     0.250\n' in text
    assert 'rest,' not in text
    # One run's share of four, and of two gigabytes.
    assert 'with at least 1.000 GB of rows a pass\n' in text
    line = next(x for x in text.splitlines() if 'all-to-all' in x)
    assert line.split() == [
        'forward',
        'all-to-all',
        'expert',
        '2',
        '1.000',
        'GB',
    ]
    assert 'does NOT fit' in tables.table(made(fits=False))


def test_what_others_reached_is_expected(monkeypatch):
    # Of a planned MFU of .8 they measured .4: twice 4 s, half of all else.
    point = dataclasses.replace(
        measured.POINTS[0], platform='tpu', mfu=0.4, planned=0.8
    )
    monkeypatch.setattr(
        tables,
        'expected',
        functools.partial(measured.expected, points=[point]),
    )
    text = tables.table(made(4.0))
    assert '  expect about         8.000  MFU 0.250, 500 tokens/s\n' in text
    assert 'expected from 8.000 to 8.000, as 1 measured steps' in text
    # 128 chips for 4 s, at 9 an hour, are 1.28, and of 8 s twice that; a step
    # is of 10^6 tokens.
    plan = made(4.0)
    plan['batch']['units'] = 1e6
    lines = tables.price_table(plan, 9.0).splitlines()
    assert lines[0] == (
        'price of a step and of 10^12 tokens, a chip being 9 an hour'
    )
    assert lines[1].split() == ['all', 'overlapped', '1.2800', '1,280,000']
    assert lines[3].split() == ['expect', 'about', '2.5600', '2,560,000']


def test_ranking_is_by_time_among_those_that_fit():
    plans = [
        {'changes': {'mesh.fsdp': 1}, **made(fits=False)},
        {'changes': {'mesh.fsdp': 2}, **made(5.0)},
        {'changes': {'mesh.fsdp': 3}, 'refused': 'an MFU of 2'},
        {'changes': {'mesh.fsdp': 4}, **made(4.0)},
    ]
    *lines, note = tables.ranking(plans).splitlines()[1:]
    assert note.startswith('the sum has kernels at their peaks')
    order = [line.partition('fsdp=')[2][0] for line in lines]
    assert order == ['4', '2', '1', '3']
    assert 'does not fit' in lines[2]


def test_bytes_by_each_link():
    plan = made()
    for row in plan['collectives']:
        row['links'] = {'nvlink': 4e9, 'network': 1e9}
    text = tables.table(plan)
    assert 'bytes received by nvlink and by network, time\n' in text
    lines = [line.split() for line in text.splitlines()]
    sizes = ['4.00', 'GB', '1.00', 'GB', '0.500', 's']
    assert ['all-gather', 'fsdp', '3', *sizes] in lines
    # Of one kind of collective the sum is the same.
    assert ['sum', '3', *sizes] in lines

"""Plans as text."""

from launch.planning import tables
from tests.launch.planning.runs import made


def test_table():
    text = tables.table(made())
    assert 'v5p:4x4x8: 128 chips, mesh data 4 x fsdp 32\n' in text
    assert '3.00B parameters, 1.00B active' in text
    assert 'sum                   3.00 of 95: fits\n' in text
    assert '(50% useful)' in text
    assert 'MFU 0.500, 1,000 tokens/s' in text
    assert '  moe, recomputed            0.750     0.250\n' in text
    assert 'rest' not in text
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


def test_ranking_is_by_time_among_those_that_fit():
    plans = [
        {'changes': {'mesh.fsdp': 1}, **made(fits=False)},
        {'changes': {'mesh.fsdp': 2}, **made(5.0)},
        {'changes': {'mesh.fsdp': 3}, 'refused': 'an MFU of 2'},
        {'changes': {'mesh.fsdp': 4}, **made(4.0)},
    ]
    lines = tables.ranking(plans).splitlines()[1:]
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

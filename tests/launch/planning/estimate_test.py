"""Seconds from counts, by hand."""

import dataclasses

import numpy as np
import pytest

from launch.planning import estimate
from launch.planning.chips import parse_topology
from launch.planning.cost import Collective, Cost
from launch.planning.tpus import TPUS, Torus
from moe.config import ConfigError

# Figures that divide: 100 FLOP/s, 10 B/s of HBM, 6 B/s of six links.
CHIP = dataclasses.replace(
    TPUS['v5p'], flops=100.0, bandwidth=10.0, ici=6.0, memory=1000.0
)
BOX = Torus('box', CHIP, (4, 2, 2))
COORDS = np.array(
    [[x, y, z] for x in range(4) for y in range(2) for z in range(2)]
)


@pytest.mark.parametrize(
    ('name', 'chips', 'devices', 'peak'),
    [
        ('v4:4x4x4', 64, 64, 275e12),
        ('v5e:16x16', 256, 256, 197e12),
        ('v5p:4x4x8', 128, 128, 459e12),
        ('v6e:16x16', 256, 256, 918e12),
        ('tpu7x:2x2x2', 8, 16, 2307e12),
    ],
)
def test_topologies(name, chips, devices, peak):
    found = parse_topology(name)
    assert found.num_chips == chips
    assert found.num_devices == devices
    assert found.chip.flops == peak


@pytest.mark.parametrize(
    'name', [None, '', 'v5p', 'v5p:4x4', 'v9:4x4', 'v5e:4x4x4', 'v5e:0x4', '4']
)
def test_topologies_that_are_none(name):
    with pytest.raises(ConfigError, match=r'^--topology = ') as caught:
        parse_topology(name)
    assert '\n' not in str(caught.value)


def test_ring_or_line():
    assert [BOX.wraps(dim) for dim in range(3)] == [True, False, False]
    # Two dimensions of v5e close at 16.
    assert parse_topology('v5e:16x8').wraps(0)
    assert not parse_topology('v5e:16x8').wraps(1)


@pytest.mark.parametrize(
    ('kind', 'received'),
    [
        ('all-gather', 300.0),  # of the three others
        ('all-reduce', 150.0),  # twice three quarters
        ('reduce-scatter', 75.0),
        ('all-to-all', 75.0),
        ('ragged-all-to-all', 75.0),
        ('collective-permute', 100.0),
    ],
)
def test_bytes_received_in_a_group_of_four(kind, received):
    assert estimate.moved(kind, 100.0, 4) == received
    assert estimate.moved(kind, 100.0, 1) == 0.0


@pytest.mark.parametrize(
    ('kind', 'devices', 'time'),
    [
        # All of x, a ring: two links of six, 2 B/s.
        ('all-gather', [0, 4, 8, 12], 60.0),
        # Half of it is a line: one link.
        ('all-gather', [0, 4], 120.0),
        # y, a line: one link.
        ('all-gather', [0, 2], 120.0),
        # x and y: three links.
        ('all-gather', [0, 2, 4, 6, 8, 10, 12, 14], 40.0),
        # All: four links.
        ('all-gather', range(16), 30.0),
        # Of a ring of four the others are 1, 2 and 1 away: 4/3 links a byte.
        ('all-to-all', [0, 4, 8, 12], 80.0),
        # Neighbours.
        ('all-to-all', [0, 2], 120.0),
    ],
)
def test_time_on_the_links(kind, devices, time):
    group = COORDS[list(devices)]
    links, found = BOX.travel(kind, 120.0, [group])
    assert found == pytest.approx(time, rel=1e-12)
    assert links == {'ici': 120.0}


def test_collectives_by_kind_and_axes():
    pairs = ', replica_groups=[8,2]<=[16]'
    rings = ', replica_groups=[4,4]<=[4,4]T(1,0)'
    found = estimate.network(
        [
            Collective('all-gather', 10, rings, 3),
            Collective('all-reduce', 10, pairs, 1),
            Collective('all-gather', 2, rings, 1),
        ],
        {'fsdp': 4, 'expert': 4},
        COORDS,
        BOX,
    )
    # Of x: (3 * 10 + 2) * 3 bytes at 2 B/s; of z: 2 * 10 / 2 at 1 B/s.
    assert [dataclasses.astuple(row) for row in found] == [
        ('all-gather', 'fsdp', 4, 96.0, 48.0, {'ici': 96.0}),
        ('all-reduce', 'expert', 1, 10.0, 10.0, {'ici': 10.0}),
    ]


# 16 chips: 8000 FLOPs useful of 16 * 1000 executed.
COST = Cost(flops=1000.0, flops_once=500.0, bytes=30.0, collectives=())
TRAFFIC = [
    estimate.Traffic('all-gather', 'fsdp', 1, 4.0, 2.0, {'ici': 4.0}),
]


def test_roofline():
    found = estimate.roofline(8000.0, COST, TRAFFIC, 150, BOX)
    assert found == {
        'compute': 10.0,
        'memory': 3.0,
        'network': 2.0,
        # 8000 / (10 s * 1600 FLOP/s), 150 / 10.
        'overlapped': {
            'seconds': 10.0,
            'mfu': 0.5,
            'units_per_second': 15.0,
        },
        'not_overlapped': {
            'seconds': 15.0,
            'mfu': pytest.approx(1 / 3),
            'units_per_second': 10.0,
        },
    }


def test_roofline_of_two_devices_a_chip():
    chip = dataclasses.replace(CHIP, devices=2)
    box = dataclasses.replace(BOX, chip=chip)
    found = estimate.roofline(8000.0, COST, TRAFFIC, 150, box)
    # Each has half of the chip.
    assert (found['compute'], found['memory']) == (20.0, 6.0)


@pytest.mark.parametrize(
    ('useful', 'claimed', 'mfu', 'words'),
    [
        (16_001.0, 500.0, 0.5, 'a loop was not counted'),
        (8000.0, 400.0, 0.5, 'the compiler counts'),
        (8000.0, 500.0, 1.01, 'an MFU of 1.01'),
        (8000.0, 500.0, -0.1, 'an MFU of -0.10'),
        (8000.0, 500.0, float('nan'), 'an MFU of nan'),
    ],
)
def test_what_cannot_be_is_refused(useful, claimed, mfu, words):
    step = {'overlapped': {'mfu': 0.6}, 'not_overlapped': {'mfu': 0.5}}
    estimate.check(8000.0, COST, 500.0, step, 16)
    step['overlapped'] = {'mfu': mfu}
    with pytest.raises(estimate.Implausible, match=words):
        estimate.check(useful, COST, claimed, step, 16)


def test_how_far_the_counts_may_be_apart():
    # 400 of 500 is a fifth less: within 0.3, not within 0.1.
    step = {name: {'mfu': 0.5} for name in ('overlapped', 'not_overlapped')}
    estimate.check(8000.0, COST, 400.0, step, 16, agreement=0.3)
    with pytest.raises(estimate.Implausible, match='the compiler counts'):
        estimate.check(8000.0, COST, 400.0, step, 16, agreement=0.1)

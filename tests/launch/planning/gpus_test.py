"""Figures of GPUs, and by which links their collectives go, by hand."""

import dataclasses

import numpy as np
import pytest

from launch.planning.chips import parse_topology
from launch.planning.gpus import GPUS, Cluster
from moe.config import ConfigError

# 4 nodes of 4 GPUs: 60 B/s by NVLink, 10 B/s by the network.
GPU = dataclasses.replace(GPUS['h100'], nvlink=60.0, nic=10.0, node=4)
CLUSTER = Cluster('cluster', GPU, (4, 4))
PLACES = np.array([divmod(i, 4) for i in range(16)])


@pytest.mark.parametrize(
    ('name', 'chips', 'peak', 'nvlink', 'nic'),
    [
        # Data sheets, with sparsity: 624, 1,979, 1,979, 4,500, 5,000 TFLOP/s;
        # NVLink both ways 600, 900, 900, 1,800, 1,800 GB/s; adapters of 200
        # and 400 Gb/s.
        ('a100:2x8', 16, 624e12 / 2, 600e9 / 2, 200e9 / 8),
        ('h100:8x8', 64, 1979e12 / 2, 900e9 / 2, 400e9 / 8),
        ('h200:1x4', 4, 1979e12 / 2, 900e9 / 2, 400e9 / 8),
        ('b200:128x8', 1024, 4500e12 / 2, 1800e9 / 2, 400e9 / 8),
        ('gb200:18x4', 72, 5000e12 / 2, 1800e9 / 2, 400e9 / 8),
    ],
)
def test_clusters(name, chips, peak, nvlink, nic):
    found = parse_topology(name)
    assert (found.num_chips, found.num_devices) == (chips, chips)
    assert found.platform == 'gpu'
    assert found.chip.flops == pytest.approx(peak, rel=1e-3)
    assert (found.chip.nvlink, found.chip.nic) == (nvlink, nic)


# GB of memory and TB/s of its bandwidth by the data sheets; the driver keeps
# up to a tenth of what is sold.
@pytest.mark.parametrize(
    ('name', 'memory', 'bandwidth'),
    [
        ('a100', 80 * 1.074, 2.039),
        ('h100', 80 * 1.074, 3.35),
        ('h200', 141 * 1.074, 4.8),
        ('b200', 180 * 1.074, 8.0),
        ('gb200', 186 * 1.074, 8.0),
    ],
)
def test_memory(name, memory, bandwidth):
    chip = GPUS[name]
    assert 0.9 * memory < chip.memory / 1e9 <= memory
    assert chip.bandwidth == pytest.approx(bandwidth * 1e12)


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('h100', 'nodes x GPUs of one, at most 8, such as h100:8x8'),
        ('h100:64', 'nodes x GPUs of one, at most 8, such as h100:8x8'),
        ('h100:4x16', 'nodes x GPUs of one, at most 8, such as h100:8x8'),
        ('h100:0x8', 'nodes x GPUs of one, at most 8, such as h100:8x8'),
        ('h100:2x2x2', 'nodes x GPUs of one, at most 8, such as h100:8x8'),
        ('gb200:9x8', 'nodes x GPUs of one, at most 4, such as gb200:18x4'),
        ('v100:8x8', 'CHIP:SIZES, such as v4:4x4x4'),
    ],
)
def test_clusters_that_are_none(name, words):
    with pytest.raises(ConfigError, match=r'^--topology = ') as caught:
        parse_topology(name)
    assert words in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('kind', 'devices', 'network', 'time'),
    [
        # One node: all 120 bytes by NVLink, at 60 B/s.
        ('all-gather', range(4), 0, 2.0),
        ('all-to-all', [0, 1], 0, 2.0),
        ('collective-permute', [2, 3], 0, 2.0),
        # A GPU of each node: all by the adapters, at 10 B/s.
        ('all-gather', [0, 4, 8, 12], 120, 12.0),
        ('all-to-all', [0, 4, 8, 12], 120, 12.0),
        # 16 GPUs receive 15 shares of 8 bytes. Of 3 other nodes each GPU of a
        # node gathers one share, and the other 12 come from its neighbours.
        ('all-gather', range(16), 24, 2.4),
        ('reduce-scatter', range(16), 24, 2.4),
        ('all-reduce', range(16), 24, 2.4),
        # All to all, 12 of 15 shares come from other nodes.
        ('all-to-all', range(16), 96, 9.6),
        ('ragged-all-to-all', range(16), 96, 9.6),
        # Two of two nodes: one share of three is gathered from the other.
        ('all-gather', [0, 1, 4, 5], 40, 4.0),
        ('all-to-all', [0, 1, 4, 5], 80, 8.0),
        # Passed on between nodes by some: those decide.
        ('collective-permute', [0, 1, 4, 5], 120, 12.0),
        # Three and one: the one receives all three shares by its adapter.
        ('all-gather', [0, 1, 2, 4], 120, 12.0),
        ('all-to-all', [0, 1, 2, 4], 120, 12.0),
    ],
)
def test_links_of_a_group(kind, devices, network, time):
    links, seconds = CLUSTER.travel(kind, 120.0, [PLACES[list(devices)]])
    assert links['network'] == pytest.approx(network)
    assert links['nvlink'] == pytest.approx(120 - network)
    assert seconds == pytest.approx(time)


def test_nvlink_decides_where_it_is_slower():
    # 24 bytes at 1000 B/s, and 96 at 60.
    fast = dataclasses.replace(CLUSTER, chip=dataclasses.replace(GPU, nic=1e3))
    _, seconds = fast.travel('all-gather', 120.0, [PLACES])
    assert seconds == pytest.approx(96 / 60)


def test_the_slowest_group_decides():
    groups = [PLACES[[0, 1, 2]], PLACES[[3, 4, 5]]]
    assert CLUSTER.travel('all-to-all', 6.0, groups)[1] == 6 / 10
    assert CLUSTER.travel('all-to-all', 6.0, groups[:1])[1] == 6 / 60


def test_nvlink_joins_nodes():
    rack = dataclasses.replace(CLUSTER, chip=dataclasses.replace(GPU, domain=2))
    # The first two nodes, and the middle two.
    assert rack.travel('all-to-all', 6.0, [PLACES[[0, 4]]])[1] == 6 / 60
    assert rack.travel('all-to-all', 6.0, [PLACES[[4, 8]]])[1] == 6 / 10
    assert GPUS['gb200'].node * GPUS['gb200'].domain == 72

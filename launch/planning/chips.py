"""Topologies by name, of TPUs and of GPUs."""

import re

from launch.planning.gpus import GPUS, Cluster
from launch.planning.machines import Topology
from launch.planning.tpus import TPUS, Torus
from moe.config import ConfigError


def parse_topology(name: str | None) -> Topology:
    """Reads `CHIP:AxB` or `CHIP:AxBxC` of TPUs, or `CHIP:NODESxGPUS`.

    Args:
      name: CHIP:SIZES, as the user gives it.

    Returns:
      The topology.

    Raises:
      ConfigError: for an unknown chip, or a wrong number of sizes.

    >>> parse_topology('v5p:4x4x8').num_chips
    128
    >>> parse_topology('h100:8x8').num_chips
    64
    """
    kind, _, sizes = (name or '').partition(':')
    shape: tuple[int, ...] = ()
    if re.fullmatch(r'[1-9]\d*(x[1-9]\d*)*', sizes):
        shape = tuple(int(size) for size in sizes.split('x'))
    if kind in TPUS:
        chip = TPUS[kind]
        if len(shape) != chip.dims:
            allowed = (
                f'{chip.dims} sizes after {kind}, such as {_of_tpus(kind)}'
            )
            raise ConfigError('--topology', name, allowed)
        return Torus(f'{kind}:{sizes}', chip, shape)
    if kind not in GPUS:
        known = ', '.join([*map(_of_tpus, TPUS), *map(_of_gpus, GPUS)])
        raise ConfigError('--topology', name, f'CHIP:SIZES, such as {known}')
    gpu = GPUS[kind]
    if len(shape) != 2 or shape[1] > gpu.node:
        allowed = f'nodes x GPUs of one, at most {gpu.node}, such as '
        raise ConfigError('--topology', name, allowed + _of_gpus(kind))
    return Cluster(f'{kind}:{sizes}', gpu, shape)


def _of_tpus(kind: str) -> str:
    return f'{kind}:{"x".join("4" * TPUS[kind].dims)}'


def _of_gpus(kind: str) -> str:
    return f'{kind}:{max(8, GPUS[kind].domain)}x{GPUS[kind].node}'

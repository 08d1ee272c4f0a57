"""Makes a plan, plain data, of a config and a topology."""

import dataclasses
from typing import Any

import jax

from launch.planning import cost, estimate, hlo
from launch.planning.compiler import compile_step
from launch.planning.machines import Topology
from moe.parallel import mesh_shape
from moe.training import Config
from moe.workloads.planned import planning_of


def plan(config: Config, topology: Topology) -> dict[str, Any]:
    """Plans a run: its memory, FLOPs, traffic and time for a topology.

    Args:
      config: config of the run.
      topology: the machines.

    Returns:
      JSON: `topology`, `mesh`, `batch`, `parameters`, `memory` (bytes a chip by
      kind, their `sum`, what `there` is and whether it `fits`),
      `compile_seconds` and `versions`; for one that compiles also `flops`,
      `hbm_bytes`, `parts` (seconds by part of the model), `collectives`,
      `mixtures` (the collectives of all mixture layers by pass, how often one
      runs, and the bytes that it has to send) and `step`, see
      `launch.planning.estimate.roofline`.

    Raises:
      ConfigError: if the config does not fit the topology.
      NoCompiler: without the compiler.
      HLOError: if the program cannot be parsed.
      Implausible: if the figures contradict each other.
    """
    mesh = mesh_shape(config.mesh, topology.num_devices)
    config.check_batch(mesh)
    config.check_platform(topology.platform)
    planning = planning_of(config)
    compiled = compile_step(planning, topology)
    units = planning.workload.units_per_step
    per_chip = topology.chip.devices
    memory: dict[str, Any] = {
        kind: size * per_chip for kind, size in compiled.memory.items()
    }
    memory['sum'] = sum(memory.values())
    memory['there'] = topology.chip.memory
    memory['fits'] = bool(compiled.text) and memory['sum'] <= memory['there']
    useful = planning.useful_flops()
    result = {
        'topology': topology.name,
        'chips': topology.num_chips,
        'mesh': mesh,
        'model': planning.describe(),
        'batch': {
            'examples': config.data.batch_size,
            'unit': planning.workload.unit,
            'units': units,
            'units_per_chip': units / topology.num_chips,
        },
        'parameters': {'total': compiled.total, 'active': compiled.active},
        'memory': memory,
        'compile_seconds': compiled.seconds,
        'versions': {'jax': jax.__version__},
    }
    if not compiled.text:
        return result
    rows = planning.rows_of_experts(mesh)
    counted = cost.count(hlo.parse(compiled.text), rows)
    traffic = estimate.network(
        counted.collectives, mesh, compiled.coords, topology
    )
    step = estimate.roofline(useful, counted, traffic, units, topology)
    passes = {
        name: estimate.network(
            [c for c in counted.collectives if c.part == f'moe, {name}'],
            mesh,
            compiled.coords,
            topology,
        )
        for name in ('forward', 'recomputed', 'backward')
    }
    devices = topology.num_devices
    estimate.check(
        useful, counted, compiled.flops_once, step, devices, planning.agreement
    )
    return result | {
        'flops': {
            'useful': useful,
            'executed': counted.flops * devices,
            'useful_over_executed': useful / (counted.flops * devices),
        },
        'hbm_bytes': counted.bytes * per_chip,
        'parts': [
            {
                'part': name,
                'compute': flops * per_chip / topology.chip.flops,
                'memory': size * per_chip / topology.chip.bandwidth,
            }
            for name, (flops, size) in sorted(counted.parts.items())
        ],
        'collectives': [dataclasses.asdict(row) for row in traffic],
        'mixtures': {
            'runs': planning.mixtures,
            'minimum': planning.least_communicated(mesh),
            **{
                name: [dataclasses.asdict(row) for row in rows]
                for name, rows in passes.items()
            },
        },
        'step': step,
    }

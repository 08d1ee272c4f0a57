"""One plan: a config and a topology in, plain data out."""

import dataclasses
from typing import Any

import jax

from launch.planning import cost, estimate, hlo
from launch.planning.chips import Topology
from launch.planning.compiler import compile_step
from moe.config import ConfigError
from moe.dispatch import DISPATCHERS
from moe.ops import ATTENTION_KERNELS
from moe.parallel import COMMUNICATION, mesh_shape
from moe.training import Config
from moe.workloads.lm.workload import LanguageConfig


def plan(config: Config, topology: Topology) -> dict[str, Any]:
    """Plans a run on machines that are not here.

    Args:
      config: of the run, a language model.
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
      NoCompiler: without the TPU compiler.
      HLOError: if the program cannot be read.
      Implausible: if the result cannot be.
    """
    if not isinstance(config, LanguageConfig):
        raise ConfigError(
            'config.workload', config.workload, "'lm', for a plan"
        )
    mesh = mesh_shape(config.mesh, topology.num_devices)
    config.check_batch(mesh)
    config.check_platform('tpu')
    compiled = compile_step(config, topology)
    sequences, length = config.data.batch_size, config.data.seq_len
    tokens = sequences * length
    per_chip = topology.chip.devices
    memory: dict[str, Any] = {
        kind: size * per_chip for kind, size in compiled.memory.items()
    }
    memory['sum'] = sum(memory.values())
    memory['there'] = topology.chip.memory
    memory['fits'] = bool(compiled.text) and memory['sum'] <= memory['there']
    useful = estimate.useful_flops(
        config.model, compiled.active, sequences, length
    )
    result = {
        'topology': topology.name,
        'chips': topology.num_chips,
        'mesh': mesh,
        'model': {
            'layers': config.model.num_layers,
            'remat': config.model.remat,
            'attention': ATTENTION_KERNELS.name_of(config.model.attention),
            'communication': COMMUNICATION.name_of(
                config.model.moe.communication
            ),
            'dispatcher': DISPATCHERS.name_of(config.model.moe.dispatcher),
            'capacity_factor': getattr(
                config.model.moe.capacity, 'train', None
            ),
        },
        'batch': {
            'sequences': sequences,
            'length': length,
            'tokens': tokens,
            'tokens_per_chip': tokens / topology.num_chips,
        },
        'parameters': {'total': compiled.total, 'active': compiled.active},
        'memory': memory,
        'compile_seconds': compiled.seconds,
        'versions': {'jax': jax.__version__},
    }
    if not compiled.text:
        return result
    counted = cost.count(hlo.parse(compiled.text))
    traffic = estimate.network(
        counted.collectives, mesh, compiled.coords, topology
    )
    step = estimate.roofline(useful, counted, traffic, tokens, topology)
    passes = {
        name: estimate.network(
            [c for c in counted.collectives if c.part == f'moe, {name}'],
            mesh,
            compiled.coords,
            topology,
        )
        for name in ('forward', 'again', 'backward')
    }
    devices = topology.num_devices
    estimate.check(useful, counted, compiled.flops_once, step, devices)
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
            'runs': len(config.model.moe_layers)
            * config.optimizer.accumulation,
            'minimum': estimate.least_communicated(config, mesh),
            **{
                name: [dataclasses.asdict(row) for row in rows]
                for name, rows in passes.items()
            },
        },
        'step': step,
    }

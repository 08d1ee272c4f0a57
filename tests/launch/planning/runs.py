"""The command in a process of its own, and what its tests have in common."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

from launch.planning import cuda
from launch.planning.machines import GIB
from tests import tiny

ROOT = pathlib.Path(__file__).parent.parent.parent.parent
needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None,
    reason='needs the TPU compiler: pip install moe[plan]',
)
needs_cuda = pytest.mark.skipif(
    not cuda.there(), reason='needs the CUDA compiler: requirements-cuda.txt'
)


# Of the tests, or of jax in the process that runs them.
UNWANTED = (
    'JAX_DISABLE_MOST_OPTIMIZATIONS',
    'JAX_NUM_CPU_DEVICES',
    'TPU_LIBRARY_PATH',
    'XLA_FLAGS',
)


def command(*flags, start=('-m', 'launch.plan')):
    """Runs the command without the tests' settings of the compiler."""
    environment = {n: v for n, v in os.environ.items() if n not in UNWANTED}
    paths = [str(ROOT), environment.get('PYTHONPATH', '')]
    environment['PYTHONPATH'] = os.pathsep.join(filter(None, paths))
    return subprocess.run(
        [sys.executable, *start, *flags],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def small(folder):
    """A config that compiles in seconds; four devices fit it."""
    changes = {
        'model.d_model': 256,
        'model.dense.hidden': 512,
        'model.num_layers': 3,
        'model.moe.experts.hidden': 512,
        'model.moe.dispatcher': 'onehot',
        'model.moe.capacity': {'name': 'factor', 'train': 1.0, 'eval': None},
        'model.dtype': 'bfloat16',
        'model.remat': 'full',
        'data.seq_len': 128,
        'data.batch_size': 8,
        'mesh.data': 2,
        'mesh.fsdp': 2,
    }
    return tiny.write_config(folder / 'tiny.py', tiny.plain(changes))


def made(seconds=4.0, fits=True):
    """A plan of round numbers."""
    at = {'seconds': seconds, 'mfu': 0.5, 'units_per_second': 1000.0}
    return {
        'topology': 'v5p:4x4x8',
        'chips': 128,
        'mesh': {'data': 4, 'fsdp': 32, 'tensor': 1},
        'batch': {'examples': 8, 'unit': 'tokens', 'units_per_chip': 1.0},
        'parameters': {'total': 3e9, 'active': 1e9},
        'memory': {
            'parameters': 2 * GIB,
            'temporaries': GIB,
            'sum': 3 * GIB,
            'there': 95 * GIB,
            'fits': fits,
        },
        'compile_seconds': 60.0,
        'flops': {
            'useful': 2e15,
            'executed': 4e15,
            'useful_over_executed': 0.5,
        },
        'hbm_bytes': 1e12,
        'parts': [
            {'part': 'moe, recomputed', 'compute': 0.75, 'memory': 0.25},
            {'part': 'rest, forward', 'compute': 0.001, 'memory': 0.0},
        ],
        'collectives': [
            {
                'kind': 'all-gather',
                'axes': 'fsdp',
                'count': 3,
                'bytes': 5e9,
                'seconds': 0.5,
                'links': {'ici': 5e9},
            }
        ],
        'mixtures': {
            'runs': 2,
            'minimum': 1e9,
            'forward': [
                {
                    'kind': 'all-to-all',
                    'axes': 'expert',
                    'count': 4,
                    'bytes': 2e9,
                    'seconds': 0.5,
                    'links': {'ici': 2e9},
                }
            ],
            'recomputed': [],
            'backward': [],
        },
        'step': {
            'compute': 2.0,
            'memory': 1.5,
            'network': 0.5,
            'overlapped': at,
            'not_overlapped': at,
        },
    }

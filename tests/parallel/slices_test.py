"""The mesh over two slices of TPUs, which only their compiler knows here."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent

# Without the tests' virtual devices, as the compiler is told.
_PROGRAM = """
import json
from jax.experimental import topologies
from moe.config import ConfigError
from moe.parallel import MeshConfig, make_mesh
devices = topologies.get_topology_desc(
    platform='tpu', topology_name='v5p:2x2x2', num_slices=2
).devices
found = {}
for replica in (2, 4, 1, 16):
    config = MeshConfig(replica=replica, data=1, fsdp=-1, expert=1, tensor=1)
    try:
        mesh = make_mesh(config, devices)
        rows = mesh.devices.reshape(replica, -1)
        found[replica] = [[d.slice_index for d in row] for row in rows]
    except ConfigError as error:
        found[replica] = str(error)
print(json.dumps(found))
"""


@pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None,
    reason='needs the TPU compiler: pip install moe[plan]',
)
def test_slices_are_laid_along_the_replicas():
    unwanted = ('JAX_NUM_CPU_DEVICES', 'TPU_LIBRARY_PATH')
    environment = {n: v for n, v in os.environ.items() if n not in unwanted}
    environment.update(JAX_PLATFORMS='cpu', TPU_SKIP_MDS_QUERY='1')
    done = subprocess.run(
        [sys.executable, '-c', _PROGRAM],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # Two slices of 8 chips.
    assert json.loads(done.stdout.splitlines()[-1]) == {
        '2': [[0] * 8, [1] * 8],
        '4': [[0] * 4, [0] * 4, [1] * 4, [1] * 4],
        '1': 'config.mesh.replica = 1: must be a multiple of the number of '
        'slices (2)',
        '16': [[0]] * 8 + [[1]] * 8,
    }

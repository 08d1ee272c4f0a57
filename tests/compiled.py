"""Programs that a compiler makes for accelerators that are not here."""

import importlib.util
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterable

import pytest

from launch.planning import cuda
from tests.commands import ROOT

# Of the tests, or of jax in the process that runs them.
_UNWANTED = (
    'JAX_DISABLE_MOST_OPTIMIZATIONS',
    'JAX_NUM_CPU_DEVICES',
    'TPU_LIBRARY_PATH',
    'XLA_FLAGS',
)

needs_cuda = pytest.mark.skipif(
    not cuda.there(),
    reason='needs the CUDA compiler: requirements-cuda.txt',
)
needs_tpu = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None,
    reason='needs the TPU compiler: pip install moe[plan]',
)


def texts(
    module: str, folder: pathlib.Path, names: Iterable[str] = ()
) -> dict[str, str]:
    """Runs a module that writes programs to a folder, without the tests' flags.

    Args:
      module: name of the module, whose first argument is the folder.
      folder: an empty folder.
      names: further arguments: the programs to write, of a module that can
        write some of them.

    Returns:
      Name of each program to its text, of FOLDER/NAME.txt.
    """
    environment = {n: v for n, v in os.environ.items() if n not in _UNWANTED}
    done = subprocess.run(
        [sys.executable, '-m', module, str(folder), *names],
        cwd=ROOT,
        env={**environment, 'JAX_PLATFORMS': 'cpu'},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return {path.stem: path.read_text() for path in folder.glob('*.txt')}

"""Grouped products on an NVIDIA GPU; not run where there is none."""

import json
import math
import os
import shutil
import subprocess
import sys

import pytest

from tests.commands import ROOT
from tests.ops.nvidia import card

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        shutil.which('nvidia-smi') is None, reason='needs an NVIDIA GPU'
    ),
]
# Results are rounded once; sums and operands of float32 as the GPU's unit does.
TOLERANCES = {'bfloat16': 4e-3, 'float16': 1e-3, 'float32': 2e-3}


def test_products_and_gradients():
    unwanted = ('JAX_PLATFORMS', 'JAX_DISABLE_MOST_OPTIMIZATIONS', 'XLA_FLAGS')
    environment = {n: v for n, v in os.environ.items() if n not in unwanted}
    done = subprocess.run(
        [sys.executable, '-m', card.__name__],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == (len(card.DTYPES) * len(card.SHAPES) * len(card.LOADS))
    for case in found:
        for error in case['errors']:
            assert math.isfinite(error), case
            assert error < TOLERANCES[case['dtype']], case

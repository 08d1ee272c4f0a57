"""A case of the kernels for TPUs, and how they are simulated on CPU."""

import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import tpu as pltpu

from tests.reference.grouped import grouped_products, whole_numbers

# Off the blocks of 16 rows; one group empty; 135 - 119 rows past the last.
A, E, K, N, M = 135, 4, 256, 256, 2
SIZES = [41, 0, 61, 17]
ROUNDED = 2**-8  # of results in bfloat16
# Of a TPU with two cores: memory that was not written is NaN, and copies are
# made no sooner than they are waited for.
SIMULATED = pltpu.InterpretParams(num_cores_or_threads=2)


def case():
    """Operands (x, ws, dys), group sizes, and (ys, dx, dws) in float64."""
    drawn = [whole_numbers(A, E, (K, N), seed) for seed in range(M)]
    x = drawn[0][0]
    ws, dys = [w for _, w, _ in drawn], [dy for *_, dy in drawn]
    # What is past the last group is not read.
    x[sum(SIZES) :] = np.nan
    for dy in dys:
        dy[sum(SIZES) :] = np.inf
    results = [
        grouped_products(x, w, SIZES, dy) for w, dy in zip(ws, dys, strict=True)
    ]
    ys, dxs, dws = zip(*results, strict=True)
    narrow = lambda array: jnp.asarray(array, jnp.bfloat16)
    given = narrow(x), [narrow(w) for w in ws], [narrow(dy) for dy in dys]
    return *given, jnp.array(SIZES), (ys, sum(dxs), dws)

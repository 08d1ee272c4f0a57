"""The annotations hold: shapes and dtypes, checked as the system runs."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

# A process of its own: the hook must come before the first import.
PROGRAM = """
import jaxtyping
with jaxtyping.install_import_hook('moe', 'beartype.beartype'):
    from moe.workloads.lm.generate import Generator
    from moe.workloads.lm.sampling import Sampling
    from moe.training.step import init_state, make_eval_step, make_train_step
    from moe.types import Routing
    from moe.dispatch import DISPATCHERS
    from moe import losses
import jax, jax.numpy as jnp
from tests import tiny

tokens = jnp.zeros((8, 17), jnp.uint8)
for executor in DISPATCHERS:
    config = tiny.parsed({
        'model.moe.dispatcher': executor,
        'model.moe.jitter': 0.01,
        'model.moe_every': 1 if executor == 'grouped' else 2,
        'optimizer.accumulation': 2 if executor == 'grouped' else 1,
    })
    state = jax.eval_shape(lambda: init_state(config))
    jax.eval_shape(make_train_step(config), state, tokens)
mask = jnp.ones((8, 16), bool)
jax.eval_shape(make_eval_step(config), state, (tokens, mask))
variables = {'params': tiny.state(config).params}
Generator(config.model, variables).generate(
    [[0], [1, 2]], jax.random.key(0), length=3, sampling=Sampling(), record=True
)
try:
    losses.router_z(jnp.zeros((1, 2, 3)), jnp.ones((1, 3), bool))
except jaxtyping.TypeCheckError:
    print('checked')
"""


def test_annotations_hold():
    # The last call, of a mask that does not fit, shows that they are checked.
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM], capture_output=True, text=True
    )
    assert done.stdout == 'checked\n', done.stderr

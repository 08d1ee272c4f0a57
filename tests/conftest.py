"""Eight CPU devices for every test, and reproducible property tests."""

import os

# Before jax is imported: it reads them once.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['JAX_NUM_CPU_DEVICES'] = '8'
# Little effort in compiling, which what runs for moments repays.
os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
# Commands that tests run neither read nor fill the user's cache.
os.environ['JAX_ENABLE_COMPILATION_CACHE'] = '0'

import hypothesis

# Before absl is: it closes the streams that handlers of logging know, and under
# pytest those are pytest's own.
import submitit  # noqa: F401

hypothesis.settings.register_profile(
    'reproducible', deadline=None, derandomize=True, database=None
)
hypothesis.settings.load_profile('reproducible')

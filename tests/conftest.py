"""Eight CPU devices for every test, and reproducible property tests."""

import gc
import os
from importlib import metadata

# Before jax is imported: it reads them once.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['JAX_NUM_CPU_DEVICES'] = '8'
# Little effort in compiling, which what runs for moments repays.
os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
# Commands that tests run neither read nor fill the user's cache.
os.environ['JAX_ENABLE_COMPILATION_CACHE'] = '0'
# One part of a program after the other: 32 at once cost more than they bring.
# XLA's older code generator for CPUs compiles a step in a third of the time of
# the newer one. Later versions do not have it, and end at an unknown flag.
os.environ['XLA_FLAGS'] = (
    '--xla_cpu_parallel_codegen_split_count=1 '
    + '--xla_cpu_use_fusion_emitters=false '
    * metadata.version('jaxlib').startswith('0.10.')
    + os.environ.get('XLA_FLAGS', '')
)

import hypothesis

# Tracing makes so many objects that looking for garbage is a quarter of it.
gc.set_threshold(50_000, 20, 10)

hypothesis.settings.register_profile(
    'reproducible', deadline=None, derandomize=True, database=None
)
hypothesis.settings.load_profile('reproducible')

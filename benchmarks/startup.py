"""Suite `startup`: seconds until a command is ready, in processes of its own.

Every process is new; nothing of one is left for the next but the folder of
compiled programs, where the case says so.
"""

import math
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

from benchmarks.record import Record, measured
from benchmarks.timing import Call, Case, measure

ROOT = pathlib.Path(__file__).parents[1]
_LIBRARIES = 'import jax, flax.linen, optax'
LIBRARIES = 'import jax, flax, optax'
LAYERS, TRAIN = 'import moe.layers', 'imports of train.py'
IMPORTS = {
    'python': 'pass',
    LIBRARIES: _LIBRARIES,
    LAYERS: f'{_LIBRARIES}, moe.layers',
    TRAIN: f'{_LIBRARIES}, train',
}
COLD, WARM = 'first step, nothing compiled', 'first step, programs kept'
# Of the quickstart, by size.
_CHANGES: dict[str, tuple[str, ...]] = {
    'full': (),
    'small': (
        'model.d_model=16',
        'model.num_layers=1',
        'model.moe.num_experts=4',
        'data.seq_len=16',
        'data.source.files=benchmarks/*.py',
        'data.source.val_fraction=0.5',
    ),
}


def run(size: str, rounds: int) -> Iterator[Record]:
    """Yields the records of imports and of first steps.

    Args:
      size: a key of _CHANGES.
      rounds: how many times each is timed.
    """
    with tempfile.TemporaryDirectory() as folder:
        cases = [Case(name, _python(code)) for name, code in IMPORTS.items()]
        for name in (COLD, WARM):
            cases.append(Case(name, _first_step(size, name, folder)))
        found = measure(cases, rounds, long=math.inf)
    bare = {c.name: t.median for c, t in found if t.seconds}
    for case, timing in found:
        more = {}
        if timing.seconds and case.name in (LAYERS, TRAIN):
            own = timing.median - bare.get(LIBRARIES, 0.0)
            more['seconds_over_libraries'] = round(own, 3)
        yield measured(case, timing, **more)


def _python(code: str) -> Callable[[], Call]:
    return lambda: (
        lambda: subprocess.run(
            [sys.executable, '-c', code], cwd=ROOT, check=True
        )
    )


def _first_step(size: str, name: str, folder: str) -> Callable[[], Call]:
    """A run of the quickstart, until it says that a step is over."""

    def call():
        own = tempfile.mkdtemp(dir=folder)
        cache = folder if name == WARM else own
        command = [
            *(sys.executable, '-u', 'train.py', f'--workdir={own}/run'),
            *('--config=configs/lm.py:quickstart', '--config.log_every=1'),
            *(f'--config.{change}' for change in _CHANGES[size]),
        ]
        environment = {**os.environ, 'XDG_CACHE_HOME': cache}
        with subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith('step'):
                    process.kill()
                    return
        raise RuntimeError(f'no first step: {"".join(lines)[-150:]}')

    def build() -> Call:
        if name == WARM:
            call()  # which keeps its programs
        return call

    return build

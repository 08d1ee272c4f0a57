"""Three seeds of a variant of `configs/cluttered.py`.

    python -m launch.sweep --config=configs/sweeps/cluttered.py:vmoe \\
        --workdir=DIR

With `--vmapped` all three are one program.
"""

from configs import cluttered

get_config = cluttered.get_config


def sweep():
    for seed in range(3):
        yield {'seed': seed}

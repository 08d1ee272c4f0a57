"""Five seeds of a variant of `configs/vision.py`, on scikit-learn's digits.

    python -m launch.sweep --config=configs/sweeps/digits.py:vmoe --workdir=DIR

With `--vmapped` all five are one program.
"""

from configs import vision

get_config = vision.get_config


def sweep():
    for seed in range(5):
        yield {'seed': seed}

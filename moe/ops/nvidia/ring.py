"""Steps of a product through shared memory, loaded while others are multiplied.

Of three warpgroups of a multiprocessor the last one loads, the others multiply.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

# Numbers of 16 bits in the 128 bytes that shared memory is swizzled by: the
# least width, the depth of a step and the side of what is stored at a time.
STEP = 64
TRANSFORMS = (
    plgpu.TilingTransform((8, STEP)),
    plgpu.SwizzleTransform(128),
)
_MULTIPLYING = 2  # warpgroups
# Registers of a thread: of all that a multiprocessor has, three warpgroups get
# 504 together.
_REGISTERS = {'load': 40, 'multiply': 232}


def memory(stages: int, left, right, dtype) -> dict[str, Any]:
    """What a Ring needs, for `run_scoped`: buffers and barriers of each stage.

    Args:
      stages: steps that are held at a time.
      left: shape of the first operand of a step.
      right: that of the second one.
      dtype: their dtype.
    """
    buffer = lambda shape: plgpu.SMEM(
        (stages, *shape), dtype, transforms=TRANSFORMS
    )
    return {
        'left': buffer(left),
        'right': buffer(right),
        'loaded': plgpu.Barrier(num_arrivals=2, num_barriers=stages),
        'used': plgpu.Barrier(num_arrivals=_MULTIPLYING, num_barriers=stages),
    }


class Ring:
    """Steps of two operands, each loaded once and multiplied once.

    They are counted over all tiles of a multiprocessor, so that the next tile
    is loaded while the last one is multiplied and stored.

    Args:
      stages: steps that are held at a time.
      left: buffers of the first operand.
      right: those of the second one.
      loaded: barriers that say that a stage is loaded.
      used: barriers that say that it is multiplied.
    """

    def __init__(self, stages: int, left, right, loaded, used):
        self._stages = stages
        self._buffers = left, right
        self._loaded, self._used = loaded, used

    def run(self, wg, each_tile, load, compute) -> None:
        """Runs two functions of (tile, steps before it), on their warpgroups.

        Args:
          wg: the number of the warpgroup.
          each_tile: returns a decorator that runs a function over all tiles.
          load: calls `load` for all steps of a tile.
          compute: calls `multiply`. Both return the steps after the tile.
        """

        @pl.when(wg == _MULTIPLYING)
        def _():
            plgpu.set_max_registers(_REGISTERS['load'], action='decrease')
            count = each_tile()(load)

            # So that no load is under way in the end.
            @pl.loop(lax.max(count - self._stages, 0), count)
            def _(step):
                plgpu.barrier_wait(self._used.at[self._stage(step)])

        @pl.when(wg < _MULTIPLYING)
        def _():
            plgpu.set_max_registers(_REGISTERS['multiply'], action='increase')
            each_tile()(compute)
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)

    def load(self, step, *sources) -> None:
        """Loads the two operands of a step, once there is room.

        Args:
          step: number of the step.
          *sources: the operands in the memory of the device.
        """
        stage = self._stage(step)

        @pl.when(step >= self._stages)
        def _():
            plgpu.barrier_wait(self._used.at[stage])

        for source, buffer in zip(sources, self._buffers, strict=True):
            plgpu.copy_gmem_to_smem(
                source, buffer.at[stage], self._loaded.at[stage]
            )

    def multiply(self, first, count, product) -> None:
        """Multiplies the steps of a tile.

        Args:
          first: number of the first step.
          count: how many there are.
          product: a function of (index, left, right) that starts a product.
        """

        @pl.loop(0, count)
        def _(index):
            stage = self._stage(first + index)
            plgpu.barrier_wait(self._loaded.at[stage])
            product(index, *(buffer.at[stage] for buffer in self._buffers))
            # The other warpgroup multiplies meanwhile.
            plgpu.wgmma_wait(0)
            plgpu.barrier_arrive(self._used.at[stage])

    def _stage(self, step):
        return lax.rem(step, jnp.int32(self._stages))

"""Published measurements of training steps, beside the plans of them.

A roofline with everything overlapped says what no program can beat. How far
real programs stay behind it is read here from steps that others measured and
that a kept plan of ours is of.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from launch.planning.chips import parse_topology

_MAXTEXT = 'maxtext.readthedocs.io, reference/models/tiering, v0.2, 2026'
_CUSTOM = 'maxtext.readthedocs.io, guides/optimization/custom_model, April 2026'
_RECIPES = 'github.com/AI-Hypercomputer/tpu-recipes, training'
_V5P = f'{_RECIPES}/v5p, October 2025'
_TRILLIUM = f'{_RECIPES}/trillium, October 2025'
_IRONWOOD = f'{_RECIPES}/ironwood/README.md, August 2026'
_BRIDGE = (
    'docs.nvidia.com/nemo/megatron-bridge, performance summary, 25.11, routing '
    'forced to balance'
)
_ZOO = 'github.com/yanring/Megatron-MoE-ModelZoo, best_practice'
_CORE = (
    'github.com/NVIDIA/Megatron-LM, core/transformer/moe/README.md, 2025: '
    'MCore v0.9, and the GPUs of its reference mapping'
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """A measured training step in bfloat16.

    Attributes:
      model: the published model.
      platform: JAX's name of the chips' platform, 'tpu' or 'gpu'.
      chips: chip and topology, as `--topology`.
      tokens: tokens a chip and step; None where it is not published.
      sequence: tokens of a sequence.
      mfu: model FLOP/s over the chips' peak in bfloat16.
      speed: tokens a second and chip; None where it is not published.
      program: whose program ran.
      source: where it is published.
      plan: name of our plan in `docs/plans/`, of the same model on as many
        chips; None for none.
      planned: MFU of that plan with everything overlapped.
    """

    model: str
    platform: str
    chips: str
    tokens: int | None
    mfu: float
    speed: float | None
    program: str
    source: str
    sequence: int = 4096
    plan: str | None = None
    planned: float | None = None

    @property
    def efficiency(self) -> float | None:
        """Returns the measured MFU over the planned one, if there is a plan."""
        return None if self.planned is None else self.mfu / self.planned


POINTS = (
    Point(
        model='Mixtral 8x7B',
        platform='tpu',
        chips='v5p:4x4x4',
        tokens=36 * 4096,
        mfu=0.5489,
        speed=None,
        program='MaxText',
        source=f'{_V5P}; MaxText, Run_Mixtral.md',
        plan='mixtral_8x7b-v5p-4x4x4',
        planned=0.736,
    ),
    Point(
        model='Mixtral 8x7B',
        platform='tpu',
        chips='v5p:4x4x8',
        tokens=None,
        mfu=0.5256,
        speed=2909,
        program='MaxText',
        source=_MAXTEXT,
        plan='mixtral_8x7b-v5p-4x4x8',
        planned=0.942,
    ),
    Point(
        model='Mixtral 8x7B',
        platform='tpu',
        chips='v6e:16x16',
        tokens=8 * 4096,
        mfu=0.3523,
        speed=3897,
        program='MaxText',
        source=f'{_TRILLIUM}; {_MAXTEXT}',
        plan='mixtral_8x7b-v6e-16x16',
        planned=0.609,
    ),
    Point(
        model='Mixtral 8x7B',
        platform='tpu',
        chips='v6e:16x16',
        tokens=12 * 4096,
        mfu=0.329,
        speed=3645,
        program='MaxText',
        source=_TRILLIUM,
    ),
    Point(
        model='Mixtral 8x22B',
        platform='tpu',
        chips='v6e:16x16',
        tokens=8 * 4096,
        mfu=0.362,
        speed=1326,
        program='MaxText',
        source=f'{_TRILLIUM}; {_MAXTEXT}',
    ),
    Point(
        model='Mixtral-like 708B',
        platform='tpu',
        chips='v6e:16x16',
        tokens=2 * 4096,
        mfu=0.431,
        speed=None,
        program='MaxText',
        source=_CUSTOM,
    ),
    Point(
        model='Mixtral-like 754B',
        platform='tpu',
        chips='v6e:16x16',
        tokens=2 * 4096,
        mfu=0.498,
        speed=None,
        program='MaxText',
        source=_CUSTOM,
    ),
    Point(
        model='DeepSeek-V3',
        platform='tpu',
        chips='v5p:8x8x8',
        tokens=12 * 4096,
        mfu=0.332,
        speed=542,
        program='MaxText',
        source=_V5P,
        plan='deepseek_v3-v5p-8x8x8',
        planned=0.687,
    ),
    Point(
        model='Llama 4 Scout',
        platform='tpu',
        chips='v5p:8x8x8',
        tokens=8 * 8192,
        mfu=0.491,
        speed=2070,
        program='MaxText',
        source=_V5P,
        sequence=8192,
    ),
    Point(
        model='Llama 4 Maverick',
        platform='tpu',
        chips='v5p:4x4x8',
        tokens=4 * 8192,
        mfu=0.349,
        speed=1322,
        program='MaxText',
        source=_V5P,
        sequence=8192,
    ),
    Point(
        model='DeepSeek-V3',
        platform='tpu',
        chips='tpu7x:4x4x8',
        tokens=16 * 4096,
        mfu=0.263,
        speed=2426,
        program='MaxText',
        source=_IRONWOOD,
    ),
    Point(
        model='DeepSeek-V3',
        platform='tpu',
        chips='tpu7x:4x8x8',
        tokens=16 * 4096,
        mfu=0.266,
        speed=2446,
        program='MaxText',
        source=_IRONWOOD,
    ),
    Point(
        model='Qwen3 235B-A22B',
        platform='tpu',
        chips='tpu7x:4x8x8',
        tokens=32 * 4096,
        mfu=0.273,
        speed=4246,
        program='MaxText',
        source=_IRONWOOD,
    ),
    Point(
        model='GPT-OSS 120B',
        platform='tpu',
        chips='tpu7x:4x4x4',
        tokens=20 * 8192,
        mfu=0.143,
        speed=9582,
        program='MaxText',
        source=_IRONWOOD,
        sequence=8192,
        plan='gpt_oss_120b-tpu7x-4x4x4',
        planned=0.287,
    ),
    Point(
        model='GPT-OSS 120B',
        platform='tpu',
        chips='tpu7x:4x8x8',
        tokens=20 * 8192,
        mfu=0.143,
        speed=9571,
        program='MaxText',
        source=_IRONWOOD,
        sequence=8192,
    ),
    Point(
        model='Mixtral 8x7B',
        platform='gpu',
        chips='h100:8x8',
        tokens=4 * 4096,
        mfu=0.473,
        speed=None,
        program='Megatron Core',
        source=_CORE,
        plan='mixtral_8x7b-h100-8x8',
        planned=0.747,
    ),
    Point(
        model='Mixtral 8x22B',
        platform='gpu',
        chips='h100:16x8',
        tokens=2 * 4096,
        mfu=0.493,
        speed=None,
        program='Megatron Core',
        source=f'arXiv 2504.14960; for the GPUs {_CORE}',
        plan='mixtral_8x22b-h100-16x8',
        planned=0.615,
    ),
    Point(
        model='Qwen3 235B-A22B',
        platform='gpu',
        chips='h100:32x8',
        tokens=8 * 4096,
        mfu=0.279,
        speed=1862,
        program='Megatron Core',
        source=f'{_ZOO}/Qwen3',
        plan='qwen3_235b_a22b-h100-32x8',
        planned=0.379,
    ),
    Point(
        model='GPT-OSS 120B',
        platform='gpu',
        chips='h100:8x8',
        tokens=8 * 4096,
        mfu=0.155,
        speed=5630,
        program='Megatron Bridge',
        source=_BRIDGE,
    ),
    Point(
        model='GPT-OSS 120B',
        platform='gpu',
        chips='b200:8x8',
        tokens=8 * 4096,
        mfu=0.099,
        speed=8213,
        program='Megatron Bridge',
        source=_BRIDGE,
    ),
    Point(
        model='GPT-OSS 120B',
        platform='gpu',
        chips='gb200:16x4',
        tokens=20 * 8192,
        mfu=0.195,
        speed=15876,
        program='Megatron Bridge',
        source=_BRIDGE,
        sequence=8192,
    ),
    Point(
        model='DeepSeek-V3',
        platform='gpu',
        chips='gb200:64x4',
        tokens=16 * 4096,
        mfu=0.313,
        speed=3139,
        program='Megatron Bridge',
        source=_BRIDGE,
    ),
    Point(
        model='Qwen3 235B-A22B',
        platform='gpu',
        chips='gb200:64x4',
        tokens=32 * 4096,
        mfu=0.291,
        speed=4916,
        program='Megatron Bridge',
        source=_BRIDGE,
    ),
)


@dataclasses.dataclass(frozen=True)
class Expectation:
    """What a plan's step may take, from how far others stayed behind theirs.

    Attributes:
      seconds: the geometric mean over the measured steps.
      fastest: with the efficiency of the best of them.
      slowest: with that of the worst.
      points: how many there are.
    """

    seconds: float
    fastest: float
    slowest: float
    points: int


def expected(
    plan: Mapping[str, Any], points: Sequence[Point] = POINTS
) -> Expectation | None:
    """Returns what the step of a plan may take.

    Args:
      plan: plan of `launch.planning.planner.plan`, with a step.
      points: measured steps; those of the same platform count.

    Returns:
      None if no measured step of the platform has a plan.
    """
    platform = parse_topology(plan['topology']).platform
    found = [
        p.efficiency
        for p in points
        if p.platform == platform and p.efficiency is not None
    ]
    if not found:
        return None
    mean = math.exp(sum(map(math.log, found)) / len(found))
    seconds = plan['step']['overlapped']['seconds']
    return Expectation(
        seconds / mean, seconds / max(found), seconds / min(found), len(found)
    )


def prices(
    plan: Mapping[str, Any], per_chip_hour: float, seconds: float
) -> tuple[float, float]:
    """Returns what a step costs, and 10^12 tokens or examples.

    Args:
      plan: plan of `launch.planning.planner.plan`.
      per_chip_hour: price of one chip for an hour, in any currency.
      seconds: seconds that a step takes.

    Returns:
      The price of a step, and of 10^12 units.
    """
    step = plan['chips'] * per_chip_hour * seconds / 3600
    return step, step * 1e12 / plan['batch']['units']

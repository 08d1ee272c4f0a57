"""Rotary positions and their scalings, pair by pair, in float64.

The scalings are those of transformers' `modeling_rope_utils.py`.
"""

import math

import numpy as np


def frequencies(width, *, theta, scaling=None):
    """Radians a position of each of width / 2 pairs, and the factor.

    Args:
      width: how many numbers of a head turn.
      theta: base of the wavelengths.
      scaling: None, or a dictionary of `name` and the options.
    """
    given = dict(scaling or {'name': 'none'})
    plain = [theta ** (-2 * i / width) for i in range(width // 2)]
    return _SCALINGS[given.pop('name')](plain, theta, width, **given)


def _none(plain, theta, width):
    return plain, 1.0


def _linear(plain, theta, width, factor):
    return [f / factor for f in plain], 1.0


def _ntk(plain, theta, width, factor):
    base = theta * factor ** (width / (width - 2))
    return [base ** (-2 * i / width) for i in range(width // 2)], 1.0


def _yarn(
    plain,
    theta,
    width,
    factor,
    original_length,
    beta_fast=32.0,
    beta_slow=1.0,
    mscale=None,
    mscale_all_dim=None,
    attention_factor=None,
    truncate=True,
):
    def pair_that_turns(times):
        at = width * math.log(original_length / (times * 2 * math.pi))
        return at / (2 * math.log(theta))

    low, high = pair_that_turns(beta_fast), pair_that_turns(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    if low == high:
        high += 0.001
    found = []
    for i, f in enumerate(plain):
        ramp = min(max((i - low) / (high - low), 0.0), 1.0)
        found.append(f / factor * ramp + f * (1 - ramp))
    if attention_factor is None:
        if mscale and mscale_all_dim:
            above = 0.1 * mscale * math.log(factor) + 1
            below = 0.1 * mscale_all_dim * math.log(factor) + 1
            attention_factor = above / below
        else:
            attention_factor = 0.1 * math.log(factor) + 1
    return found, attention_factor


def _llama3(
    plain, theta, width, factor, low_freq_factor, high_freq_factor,
    original_length,
):  # fmt: skip
    found = []
    for f in plain:
        wavelength = 2 * math.pi / f
        if wavelength < original_length / high_freq_factor:
            found.append(f)
        elif wavelength > original_length / low_freq_factor:
            found.append(f / factor)
        else:
            smooth = (original_length / wavelength - low_freq_factor) / (
                high_freq_factor - low_freq_factor
            )
            found.append((1 - smooth) * f / factor + smooth * f)
    return found, 1.0


_SCALINGS = {
    'none': _none,
    'linear': _linear,
    'ntk': _ntk,
    'yarn': _yarn,
    'llama3': _llama3,
}


def rotate(x, position, *, theta, share=1.0, interleaved=False, scaling=None):
    """Turns each pair of a vector as a complex number; the rest stays."""
    width = int(len(x) * share)
    angles, factor = frequencies(width, theta=theta, scaling=scaling)
    turned = np.array(x, np.float64)
    for i, frequency in enumerate(angles):
        a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + width // 2)
        z = complex(x[a], x[b]) * np.exp(1j * position * frequency) * factor
        turned[a], turned[b] = z.real, z.imag
    return turned

"""Stateless pseudorandom numbers and permutations by hashing integers.

They are functions of integers alone, the same on every machine.
"""

import numpy as np

_ROUNDS = 6


def mix(number: np.ndarray, seed: int) -> np.ndarray:
    """Hashes integers to 64 pseudorandom bits.

    Source: splitmix64 of Steele et al., Fast Splittable Pseudorandom Number
    Generators, OOPSLA 2014.

    Args:
      number: integers of any shape, from 0.
      seed: seed of the hash, from 0.

    Returns:
      uint64 of the same shape.

    >>> int(mix(np.zeros(1, int), 0)[0])
    16294208416658607535
    """
    step = np.uint64(0x9E3779B97F4A7C15)
    z = np.asarray(number, np.uint64) + np.uint64(1)
    if seed:
        z = z + mix(np.full(1, seed), 0)
    z = z * step  # modulo 2^64
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(number: np.ndarray, seed: int) -> np.ndarray:
    """Hashes integers to float64 in [0, 1), of 53 bits.

    Args:
      number: integers of any shape, from 0.
      seed: seed of the hash, from 0.
    """
    return (mix(number, seed) >> np.uint64(11)) * 2.0**-53


def permuted(index: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Applies a random permutation to some indices.

    A Feistel network permutes the smallest square of a power of two that is at
    least `count`; it is applied again while an index is beyond `count`.

    Source: Black and Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA
    2002.

    Args:
      index: [B] indices in [0, count).
      count: size of the permutation, at least 1.
      seed: seed of the permutation.

    Returns:
      The permuted indices, int64 [B].
    """
    half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << half) - np.uint64(1)
    place = np.array(index, np.uint64)
    outside = np.arange(len(place))
    while len(outside):
        left, right = place[outside] >> half, place[outside] & low
        for turn in range(_ROUNDS):
            keyed = mix(right, _ROUNDS * seed + turn) & low
            left, right = right, left ^ keyed
        place[outside] = left << half | right
        outside = outside[place[outside] >= count]
    return place.astype(np.int64)

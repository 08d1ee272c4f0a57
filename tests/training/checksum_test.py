"""Checksums: by their formula, on any mesh; no changed bit goes unseen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from moe.training.checksum import device_checksums, host_checksum, leaf_names

DTYPES = ('float32', 'bfloat16', 'int8', 'bool')


def oracle(words):
    """The two sums of the docstring, in Python's own integers."""

    def mix(x):
        x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
        x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
        return x ^ (x >> 16)

    first = [mix(word ^ mix(i)) for i, word in enumerate(words)]
    second = [mix(x ^ 0x9E3779B9) for x in first]
    return sum(first) % 2**32, sum(second) % 2**32


def array(dtype, shape=(8, 6)):
    draw = np.random.default_rng(0).standard_normal(shape)
    return np.asarray(jnp.asarray(draw).astype(dtype))


def test_is_its_formula():
    values = array('float32', (3, 5))
    words = [int(word) for word in values.view(np.uint32).ravel()]
    assert tuple(host_checksum(values)) == oracle(words)
    assert tuple(host_checksum(np.arange(4, dtype=np.uint8))) == oracle(
        range(4)
    )
    # A number of 8 bytes is two words, the lower one first.
    wide = np.array([2**32 + 5, 7], np.uint64)
    assert tuple(host_checksum(wide)) == oracle([5, 1, 7, 0])
    assert tuple(host_checksum(np.zeros((0, 3)))) == (0, 0)
    # Across the parts in which the host adds.
    long = np.arange(2**18 + 3, dtype=np.uint32)
    assert tuple(host_checksum(long)) == oracle(range(2**18 + 3))


def test_is_the_same_on_any_mesh():
    key = jax.random.key(3)
    leaves = [array(dtype) for dtype in DTYPES]
    leaves += [np.float32(2.5), np.zeros((0, 8), np.float32), key]
    wanted = [host_checksum(x) for x in leaves[:-1]]
    wanted.append(host_checksum(np.asarray(jax.random.key_data(key))))
    for sizes, spec in (
        ((8, 1), P('a')),  # by rows
        ((2, 2, 2), P('a', 'b')),  # in both dimensions, each part twice
    ):
        mesh = jax.make_mesh(sizes, ('a', 'b', 'c')[: len(sizes)])
        place = lambda x, mesh=mesh, spec=spec: jax.device_put(
            x, NamedSharding(mesh, spec if x.ndim else P())
        )
        found = device_checksums([*map(place, leaves[:-2]), place(key)])
        np.testing.assert_array_equal(found, wanted[:-2] + wanted[-1:])
    on_one = device_checksums([jnp.asarray(x) for x in leaves])
    np.testing.assert_array_equal(on_one, wanted)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'uint8', 'int64'])
def test_every_flipped_bit_changes_both_sums(dtype):
    values = np.asarray(array('float32', (5, 3)).astype(dtype))
    before = host_checksum(values)
    raw = values.view(np.uint8).reshape(-1)
    for bit in range(8 * raw.size):
        raw[bit // 8] ^= 1 << bit % 8
        assert (host_checksum(values) != before).all(), bit
        raw[bit // 8] ^= 1 << bit % 8
    assert (host_checksum(values) == before).all()


def test_places_count():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = {
        tuple(host_checksum(x))
        for x in (values, values[::-1], values[:, ::-1], values.T.copy())
    }
    assert len(found) == 4


def test_names_of_leaves():
    tree = {'a': [1, None, {'b': 2}], 'c': 3}
    assert leaf_names(tree) == ['a/0', 'a/2/b', 'c']

"""Stacks cut into scans: which layers are compiled, and where they are."""

import jax.numpy as jnp
import numpy as np
import pytest

from moe.models.pattern import Kind, Place, cut, in_order, places
from moe.totals import Mean
from moe.types import Aux, Totals


def kinds(letters):
    return tuple(Kind(mixture=letter == 'm') for letter in letters)


# A letter for each layer, d for a dense one and m for a mixture; the period
# that is looked for first; and the pattern and repetitions of each scan.
@pytest.mark.parametrize(
    ('layers', 'period', 'scans'),
    [
        ('mmmm', 1, [('m', 4)]),
        ('dddd', 1, [('d', 4)]),
        ('dmdm', 2, [('dm', 2)]),
        # One scan where one is enough, though two would compile less.
        ('dddm', 4, [('dddm', 1)]),
        # DeepSeek-V3.
        ('ddd' + 58 * 'm', 1, [('d', 3), ('m', 58)]),
        # Layers that are no multiple of the period.
        ('dmdmdmd', 2, [('dm', 3), ('d', 1)]),
        # A dense layer among mixtures: three layers compiled are the fewest.
        ('mdm', 1, [('mdm', 1)]),
        ('m' + 'd' + 46 * 'm', 1, [('md', 1), ('m', 46)]),
        # Five dense and a mixture, four times, then two dense ones.
        (4 * 'dddddm' + 'dd', 6, [('dddddm', 4), ('d', 2)]),
    ],
)
def test_cut(layers, period, scans):
    found = cut(kinds(layers), period)
    names = ['layers'] if len(scans) == 1 else ['layers_0', 'layers_1']
    assert [scan.name for scan in found] == names
    assert [(scan.kinds, scan.repeats) for scan in found] == [
        (kinds(pattern), repeats) for pattern, repeats in scans
    ]


def test_places():
    found = places(cut(kinds('dmdmd'), 2))
    assert found == [
        Place('layers_0', 'block_0', 0),
        Place('layers_0', 'block_1', 0),
        Place('layers_0', 'block_0', 1),
        Place('layers_0', 'block_1', 1),
        Place('layers_1', 'block_0', 0),
    ]


def aux(*numbers, path):
    """An Aux of layers that are told by their numbers."""
    value = jnp.array(numbers, jnp.float32)
    totals = Totals({'a': Mean(value, value)}, Mean(value, value))
    return Aux({'a': value}, {'b': value}, value, {path: value}, totals)


def test_in_order():
    # Mixtures 0, 2 and 1, 3 of a first scan, none of a second, 4 of a third.
    first = [aux(0, 2, path='x'), aux(1, 3, path='y')]
    found = in_order([first, [], [aux(4, path='z')]])
    states = found.state_statistics
    assert {path: v.tolist() for path, v in states.items()} == {
        'x': [0, 2],
        'y': [1, 3],
        'z': [4],
    }
    values = [found.losses['a'], found.stats['b'], found.routing]
    values += [found.totals.losses['a'].sum, found.totals.stats.count]
    for value in values:
        np.testing.assert_array_equal(value, np.arange(5))
    assert in_order([[], []]) is None

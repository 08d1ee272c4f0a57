"""What the layer sends when compiled for TPUs: its rows, and no more."""

import pytest

from launch.planning.hlo import parse
from launch.planning.products import product_flops
from tests import compiled
from tests.parallel.collectives import Collective, collectives
from tests.parallel.tpu_layer import CASES, C, D, E, F, G, K, S

BYTES = 2  # of a bfloat16
pytestmark = [pytest.mark.slow, compiled.needs_tpu]


# Programs that differ from another in what meshes of CPUs tell apart too.
LONG = {'expert_choice', 'ragged_levels'}


def compile_layers(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp('programs')
    return compiled.texts('tests.parallel.tpu_layer', folder, names)


@pytest.fixture(scope='module')
def texts(tmp_path_factory):
    return compile_layers(tmp_path_factory, sorted(CASES.keys() - LONG))


@pytest.fixture(scope='module')
def long_texts(tmp_path_factory):
    return compile_layers(tmp_path_factory, sorted(LONG))


def check_sent(found, least):
    """Little beside what has to travel, and nobody gathers anything large.

    The largest of the rest is the router's gradient, [D, E] summed by all.
    """
    sent = sum(one.sent for one in found)
    assert least <= sent <= 1.05 * least
    # Neither tokens [G, S, D], nor probabilities [G, S, E], nor weights.
    gathered = [one for one in found if one.kind == 'all-gather']
    assert sum(one.size for one in gathered) < 4 * G * S * E / 8


def moved(text):
    """Rows given, and of the buffer to fill, of each ragged all-to-all."""
    kinds = ('ragged-all-to-all', 'ragged-all-to-all-start')
    return sorted(
        tuple(
            array.bytes // (D * BYTES) for array in computation.arrays(one)[:2]
        )
        for computation in parse(text).computations.values()
        for one in computation.instructions.values()
        if one.opcode in kinds
    )


def test_all_to_all(texts):
    check_all_to_all(texts['all_to_all'])


@pytest.mark.long
def test_all_to_all_of_expert_choice(long_texts):
    check_all_to_all(long_texts['expert_choice'])


def check_all_to_all(text):
    found = collectives(text)
    # The buffers of 2 groups, there and back, twice.
    buffer = BYTES * E * (G // 4) * C * D
    found_all = [one for one in found if one.kind == 'all-to-all']
    assert sum(one.times for one in found_all) == 4
    assert {one.size for one in found_all} == {buffer}
    check_sent(found, 4 * buffer * 3 // 4)


def products_between(text):
    """FLOPs of products between start and end of each all-to-all, in order."""
    program = parse(text)

    def flops(here, one):
        inner = program.computations.get(one.called('calls') or '')
        fused = inner.instructions.values() if inner else ()
        return product_flops(here, one) + sum(flops(inner, i) for i in fused)

    found, going = [], {}
    main = program.computations[program.entry]
    for one in main.instructions.values():  # in the order of the schedule
        if one.opcode == 'all-to-all-start':
            going[one.name] = 0.0
        elif one.opcode == 'all-to-all-done':
            found.append(going.pop(one.operands[0]))
        else:
            work = flops(main, one)
            going = {name: total + work for name, total in going.items()}
    return found


def test_exchange_overlaps_with_experts(texts):
    # In two parts: each of half the buffer, and at least one that travels
    # while the experts multiply the other, forward and backward.
    found = collectives(texts['overlap'])
    half = BYTES * E * (G // 4) * C * D // 2
    assert Collective('all-to-all', 4, half, 8) in found
    check_sent(found, 8 * half * 3 // 4)
    product = 2 * (E // 4) * (G * C // 2) * D * F
    between = products_between(texts['overlap'])
    assert len(between) == 8
    assert max(between[:4]) >= product
    assert max(between[4:]) >= product
    # Whole, the experts wait for the rows, and the way back for the experts.
    assert max(products_between(texts['all_to_all'])[:2]) < product


def test_two_levels(texts):
    found = collectives(texts['levels'])
    buffer = BYTES * E * (G // 8) * C * D
    found_all = [one for one in found if one.kind == 'all-to-all']
    assert found_all == [
        Collective('all-to-all', 2, buffer, 4),
        Collective('all-to-all', 4, buffer, 4),
    ]
    check_sent(found, 4 * buffer * 3 // 4 + 4 * buffer // 2)


@pytest.mark.parametrize(
    ('name', 'devices', 'factor'), [('ragged', 4, 4), ('buffer', 8, 1.5)]
)
def test_ragged(texts, name, devices, factor):
    # There with the routed rows as they are, back into as many; the other
    # side is a buffer of which as many are filled, if all are sent as many.
    rows = G * S * K // devices
    buffer = round(factor * rows)
    assert moved(texts[name]) == sorted(2 * [(rows, buffer), (buffer, rows)])
    least = 4 * rows * D * BYTES * (devices - 1) // devices
    others = [
        one
        for one in collectives(texts[name])
        if one.kind != 'ragged-all-to-all'
    ]
    assert {one.kind for one in others} <= {'all-reduce', 'all-gather'}
    rest = Collective('ragged-all-to-all', devices, rows * D * BYTES, 4)
    check_sent([*others, rest], least)


@pytest.mark.long
def test_ragged_in_two_levels(long_texts):
    # Inside: the rows of 4 devices at most. Across: of both hosts.
    rows = G * S * K // 8
    sizes = [(rows, 4 * rows), (4 * rows, 8 * rows)]
    back = [(b, a) for a, b in sizes]
    assert moved(long_texts['ragged_levels']) == sorted(2 * (sizes + back))
    found = collectives(long_texts['ragged_levels'])
    assert {
        one.devices for one in found if one.kind == 'ragged-all-to-all'
    } == {2, 4}


def test_gather(texts):
    found = collectives(texts['gather'])
    # Tokens of all 4 devices, twice forward and backward, are both gathered
    # and summed; their routing beside them is 4 bytes where tokens are 512.
    tokens = BYTES * G * S * D
    gathers = [one for one in found if one.kind == 'all-gather']
    assert [one.times for one in gathers if one.size == tokens] == [2]
    assert all(one.size <= tokens for one in gathers)
    assert 4 * G * S * E not in {one.size for one in gathers}
    sent = sum(one.sent for one in found)
    least = 4 * tokens * 3 // 4
    assert least <= sent <= 1.05 * least

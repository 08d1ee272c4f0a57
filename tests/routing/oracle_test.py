"""Every router equals its loop over tokens, cell by cell of one table."""

import pytest

from tests.routing.common import ASSIGNING
from tests.routing.oracle_table import CELLS, TABLE, compare_cell


def name_of(value):
    if isinstance(value, dict):
        return ','.join(f'{name}={v}' for name, v in value.items())
    if isinstance(value, bool):
        return 'train' if value else 'eval'
    return value


@pytest.mark.parametrize(('name', 'train', 'options'), CELLS, ids=name_of)
def test_equals_the_loop(name, train, options):
    compare_cell(name, train, options)


def test_every_router_has_a_row():
    assert {row.router for row in TABLE.values()} == set(ASSIGNING)

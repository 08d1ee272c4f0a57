"""The grid of groups and of assignments, for every router."""

import numpy as np
import pytest

from moe.layers import experts_per_token
from tests.reference.compare import assert_close
from tests.routing.all_routers_test import (
    build,
    call,
    problem_of,
    router_of,
)
from tests.routing.common import ASSIGNING

pytestmark = pytest.mark.slow


@pytest.mark.parametrize('name', ASSIGNING)
def test_the_grid_does_not_change_the_choice_or_the_noise(name):
    if name == 'expert_choice':  # by the group
        return
    problem = problem_of()
    for train in (False, True):
        results = []
        for num_groups in (2, 1):
            layer = build(name, num_groups=num_groups)
            y, aux = call(layer, name, problem, problem.mask, train)
            by_token = lambda v: np.moveaxis(np.asarray(v), 1, -1).reshape(
                12, -1
            )
            grid = [
                by_token(v)
                for v in (
                    aux.routing.expert,
                    aux.routing.weight,
                    aux.routing.valid,
                )
            ]
            results.append((y, *grid))
        live = problem.mask.ravel()
        for other in results[1:]:
            assert_close(other[0], results[0][0], 2e-6)
            for a, b in zip(other[1:], results[0][1:], strict=True):
                np.testing.assert_allclose(a[live], b[live], rtol=2e-6)


def test_choices_are_the_rows_of_the_grid():
    # What capacity is counted by is what the router makes.
    for name in ASSIGNING:
        if name in ('expert_choice', 'top2'):
            continue
        problem = problem_of()
        routing = call(build(name), name, problem, None, False)[1].routing
        rows = routing.weight.shape[1]
        assert rows == experts_per_token(router_of(name)), name

"""What the compiler says when it refuses."""

import pytest

from launch.planning import compiler

MEMORY = {'parameters': 2.0**30, 'optimizer': 2.0**31}


@pytest.mark.parametrize(
    ('message', 'gib'),
    [
        (
            'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory '
            'required for HLO temporaries (1.50T) exceeds available HBM '
            '(95.74G).',
            1536.0,
        ),
        # All that is used, parameters and optimizer included: 3 of 131 GiB.
        (
            'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used '
            '131.00G of 95.74G hbm. Exceeded hbm capacity by 35.26G.',
            128.0,
        ),
    ],
)
def test_what_was_wanted(message, gib):
    found = compiler.wanted(RuntimeError(message), MEMORY)
    assert found == gib * 2**30


@pytest.mark.parametrize(
    'message', ['INTERNAL: a bug', 'RESOURCE_EXHAUSTED: of patience']
)
def test_other_errors_are_raised(message):
    with pytest.raises(RuntimeError, match=message):
        compiler.wanted(RuntimeError(message), MEMORY)

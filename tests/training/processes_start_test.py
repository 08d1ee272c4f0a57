"""What is said of processes that cannot be started together."""

import pytest

from moe.config import ConfigError
from moe.training import processes


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ((None, 2, 0), '--coordinator = None: must be given with the others'),
        (('localhost:1234', None, 0), '--processes = None: must be given'),
        (('localhost:1234', 2, None), '--process = None: must be given'),
        (('localhost', 2, 0), "= 'localhost': must be HOST:PORT"),
        ((':1234', 2, 0), "= ':1234': must be HOST:PORT"),
        (('localhost:0', 2, 0), "= 'localhost:0': must be HOST:PORT"),
        (('localhost:65536', 2, 0), "= 'localhost:65536': must be HOST:PORT"),
        (('localhost:1234', 0, 0), '--processes = 0: must be at least 1'),
        (('localhost:1234', 2, 2), '--process = 2: must be between 0 and 1'),
        (('localhost:1234', 2, -1), '--process = -1: must be between 0 and 1'),
    ],
)
def test_what_cannot_start(given, message):
    with pytest.raises(ConfigError) as caught:
        processes.start(*given)
    assert message in str(caught.value)

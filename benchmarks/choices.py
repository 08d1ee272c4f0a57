"""Whether the rule of the default dispatcher chose well, by measured layers."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from benchmarks.record import Record
from moe.dispatch import DISPATCHERS
from moe.dispatch.choice import by_rows

MOST = 1.1  # times the fastest of ours that the chosen one may take
_CAPACITY = 'capacity 1.25'


class Choice(NamedTuple):
    """What the rule takes for a layer.

    Attributes:
      case: the chosen case.
      fastest: the fastest among it and those of our other dispatchers, with
        capacity or not.
      ratio: time of the first over that of the second.
    """

    case: str
    fastest: str
    ratio: float


def choices(records: Iterable[Record]) -> Iterator[Choice]:
    """Yields what is chosen without and with capacity, where it was measured.

    Args:
      records: lines of one layer at one load.
    """
    ours = {
        r['case']: r
        for r in records
        if 'milliseconds' in r and r['case'].split(',')[0] in DISPATCHERS
    }
    padded = ours.get(f'indexed, {_CAPACITY}')
    if padded is None:
        return
    time = lambda case: ours[case]['milliseconds']['median']
    assignments = padded['tokens'] * padded['k']
    kernels = (
        padded['machine']['platform'] == 'cpu'
        and padded['dtype'] == 'float32'
        and 'llvmlite' in padded['versions']
    )
    rows = padded['rows']
    for policy, count in (
        # A row of every expert for every token.
        ('dropless', padded['tokens'] * padded['num_experts']),
        (_CAPACITY, rows['useful'] + rows['padded']),
    ):
        chosen = by_rows(count, assignments, kernels=kernels)
        case = f'{chosen.__name__}, {policy}'
        if case in ours:
            # The rule decides the dispatcher, and not what may be dropped.
            others = (c for c in ours if c.split(',')[0] != chosen.__name__)
            fastest = min((case, *others), key=time)
            yield Choice(case, fastest, time(case) / time(fastest))

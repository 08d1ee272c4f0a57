"""The default dispatcher is near the fastest at every measured layer."""

from benchmarks import record
from benchmarks.choices import MOST, choices
from benchmarks.layer import COPY
from benchmarks.sections import grouped
from tests.benchmarks.page_test import AROUND


def test_the_rule_chose_well_at_every_measured_layer():
    lines = [r for r in record.read(record.RESULTS) if r['suite'] == 'layer']
    keys = ('tokens', 'width', 'hidden', 'num_experts', 'k', 'load')
    layers = grouped((r for r in lines if r['case'] != COPY), *keys)
    found = {
        (key, chosen.case): chosen.ratio
        for key, records in layers.items()
        for chosen in choices(records)
    }
    assert found
    assert {key: r for key, r in found.items() if r > MOST} == {}


def layer(**milliseconds):
    """Lines of 8 experts: 8,192 assignments, 10,240 rows with capacity."""
    for case, time in milliseconds.items():
        dispatcher, policy = case.split('_')
        policy = 'dropless' if policy == 'dropless' else 'capacity 1.25'
        yield {
            'case': f'{dispatcher}, {policy}',
            'milliseconds': {'median': time},
            'rows': {'useful': 8000, 'padded': 2240, 'dropped': 192},
            'tokens': 4096,
            'k': 2,
            'num_experts': 8,
            'dtype': 'float32',
            **AROUND,
        }


def test_ratios():
    times = {'grouped_dropless': 12.0, 'grouped_capacity': 11.0}
    lines = list(layer(**times, indexed_capacity=10.0))
    # No llvmlite: 10,240 rows are below 1.5 times 8,192, and 32,768 are not.
    assert list(choices(lines)) == [
        ('grouped, dropless', 'indexed, capacity 1.25', 1.2),
        ('indexed, capacity 1.25', 'indexed, capacity 1.25', 1.0),
    ]
    for one in lines:
        one['versions'] = {'llvmlite': '0.50.0'}
    assert [c.ratio for c in choices(lines)] == [1.2, 1.1]
    assert list(choices(lines[:2])) == []  # not measured

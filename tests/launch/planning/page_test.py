"""The tables of kept plans on the page, against their files."""

import json

import pytest

from launch.planning.machines import GIB
from tests.launch.planning.runs import ROOT

PAGE = (ROOT / 'docs/explanation/planning.md').read_text()
PLANS = {
    path.stem: json.loads(path.read_text())
    for path in sorted((ROOT / 'docs/plans').glob('*.json'))
    if not path.stem.startswith('growth-')
}


def share(x):
    return f'{x:.2f}'.removeprefix('0')


def cells(plan):
    """What a row of a plan has after its model."""
    mesh = [f'{axis} {n}' for axis, n in plan['mesh'].items() if n > 1]
    memory, step = plan['memory'], plan['step']
    network = []
    if plan['topology'].startswith(('h', 'gb')):
        for link in ('nvlink', 'network'):
            size = sum(c['links'].get(link, 0) for c in plan['collectives'])
            network.append(f'{size / 1e9:.0f}')
    return [
        plan['topology'],
        ', '.join(mesh),
        f'{plan["batch"]["units_per_chip"]:,.0f}',
        f'{memory["sum"] / GIB:.0f} of {memory["there"] / GIB:.0f}',
        *(f'{step[name]:.2f}' for name in ('compute', 'memory', 'network')),
        *network,
        ', '.join(
            share(step[how]['mfu']) for how in ('overlapped', 'not_overlapped')
        ),
        f'{plan["compile_seconds"]:,.0f} s',
    ]


def rows():
    """The rows of the page that end in how long a plan took to compile."""
    found = [line for line in PAGE.splitlines() if line.endswith(' s |')]
    plain = [line.replace('**', '') for line in found]
    return [[cell.strip() for cell in row.split('|')[2:-1]] for row in plain]


@pytest.mark.parametrize('name', PLANS)
def test_a_kept_plan_has_its_row(name):
    assert cells(PLANS[name]) in rows()


def test_a_row_has_its_kept_plan():
    assert len(rows()) == len(PLANS)


@pytest.mark.parametrize(
    'name', [name for name in PLANS if not name.startswith('ten_trillion-')]
)
def test_a_plan_is_of_the_published_architecture(name):
    # As `tests/launch/models_test.py` holds the page to transformers' counts.
    page = (ROOT / 'docs/reference/models.md').read_text()
    found = PLANS[name]['parameters']
    row = f'`{name.partition("-")[0]}` | {found["total"]:,} | '
    assert f'{row}{found["active"]:,} |' in page

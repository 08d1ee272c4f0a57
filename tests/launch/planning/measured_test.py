"""Measured steps beside plans of them, and what plans are expected to take."""

import dataclasses
import json

import pytest

from launch.planning.chips import parse_topology
from launch.planning.measured import POINTS, expected, prices
from tests.launch.planning.runs import ROOT, made

PLANNED = [p for p in POINTS if p.plan]


@pytest.mark.parametrize('point', POINTS, ids=lambda p: f'{p.model} {p.chips}')
def test_published_figures_agree_with_each_other(point):
    topology = parse_topology(point.chips)
    assert topology.platform == point.platform
    # A token is 6 FLOPs a parameter that is active in it, and attention. What
    # is published as speed, and as share of the peak, agree with that; of
    # GPT-OSS embeddings are counted among the active ones.
    if point.speed:
        active = {
            'Mixtral 8x7B': 12.9e9,
            'Mixtral 8x22B': 39e9,
            'DeepSeek-V3': 37e9,
            'Qwen3 235B-A22B': 22e9,
            'GPT-OSS 120B': 5.1e9,
            'Llama 4 Scout': 17e9,
            'Llama 4 Maverick': 17e9,
        }[point.model]
        least = 6 * active * point.speed / topology.chip.flops
        assert 0.85 * least < point.mfu < 1.3 * least
    assert 0 < point.mfu < 1
    assert not point.tokens or point.tokens % point.sequence == 0


@pytest.mark.parametrize('point', PLANNED, ids=lambda p: p.plan)
def test_plans_are_of_what_was_measured(point):
    plan = json.loads((ROOT / f'docs/plans/{point.plan}.json').read_text())
    assert plan['topology'] == point.chips
    assert point.planned == round(plan['step']['overlapped']['mfu'], 3)


def point(mfu, planned):
    return dataclasses.replace(PLANNED[0], mfu=mfu, planned=planned)


def test_expected():
    # Four seconds at efficiencies of 1/2 and 1/8: 8 and 32 s; of these the
    # geometric mean is 16.
    found = expected(made(4.0), [point(0.4, 0.8), point(0.1, 0.8)])
    assert dataclasses.astuple(found) == pytest.approx((16.0, 8.0, 32.0, 2))


def test_nothing_is_expected_without_a_plan_or_of_another_platform():
    gpu = dataclasses.replace(point(0.4, 0.8), platform='gpu')
    bare = dataclasses.replace(point(0.4, 0.8), planned=None)
    assert expected(made(), [gpu, bare]) is None


def test_prices():
    plan = {**made(), 'chips': 128}
    plan['batch']['units'] = 1e9
    # 128 chips for 9 s are .32 chip-hours; 10^12 tokens are 1000 steps.
    assert prices(plan, 2.0, 9.0) == pytest.approx((0.64, 640.0))


def test_an_efficiency_is_measured_over_planned():
    assert point(0.3, 0.6).efficiency == 0.5
    assert point(0.3, None).efficiency is None


def test_both_kinds_of_platform_have_several_measured_steps():
    for platform in ('tpu', 'gpu'):
        found = [p for p in PLANNED if p.platform == platform]
        assert len({p.model for p in found}) >= 2
        # Nothing is faster than its roofline.
        assert all(0 < p.efficiency < 1 for p in found)


def test_the_page_has_a_row_of_each():
    page = (ROOT / 'docs/explanation/planning.md').read_text()
    _, _, section = page.partition('\n## Measured steps\n')
    lines = section.partition('\n## ')[0].splitlines()
    rows = [line for line in lines if line.startswith('| ')][2:]
    short = lambda x, digits: f'{x:.{digits}f}'.removeprefix('0')
    wanted = []
    for p in POINTS:
        plans = ratio = ''
        if p.plan:
            kept = json.loads((ROOT / f'docs/plans/{p.plan}.json').read_text())
            both = [
                kept['step'][n]['mfu'] for n in ('overlapped', 'not_overlapped')
            ]
            plans = ', '.join(short(mfu, 3) for mfu in both)
            ratio = short(p.mfu / both[0], 2)
        cells = [
            *(p.model, p.chips, f'{p.tokens:,}' if p.tokens else 'not said'),
            *(short(p.mfu, 3), f'{p.speed:,}' if p.speed else ''),
            *(plans, ratio, p.program),
        ]
        wanted.append('| ' + ' | '.join(cells) + ' |')
    assert [' '.join(row.split()) for row in rows] == [
        ' '.join(row.split()) for row in wanted
    ]

"""Whole plans: kept ones, and some that are made."""

import json

import pytest

from launch.planning import tables
from launch.planning.chips import parse_topology
from launch.planning.planner import plan
from moe.config import ConfigError
from tests import tiny
from tests.launch.planning.runs import (
    ROOT,
    command,
    needs_compiler,
    needs_cuda,
    small,
)

pytestmark = pytest.mark.slow


SCHEMA = {
    'batch': {'examples', 'unit', 'units', 'units_per_chip'},
    'flops': {'useful', 'executed', 'useful_over_executed'},
    'memory': {
        *('parameters', 'optimizer', 'other_arguments', 'outputs'),
        *('temporaries', 'code', 'sum', 'there', 'fits'),
    },
    'mesh': {'replica', 'data', 'fsdp', 'expert', 'tensor'},
    'model': {
        *('layers', 'remat', 'attention', 'communication'),
        *('dispatcher', 'capacity_factor'),
    },
    'parameters': {'total', 'active'},
    'mixtures': {'runs', 'minimum', 'forward', 'recomputed', 'backward'},
    'step': {*('compute', 'memory', 'network', 'overlapped', 'not_overlapped')},
    'versions': {'jax'},
}
PLAIN = {'topology', 'chips', 'compile_seconds', 'hbm_bytes'}
LISTS = {
    'collectives': {'kind', 'axes', 'count', 'bytes', 'seconds', 'links'},
    'parts': {'part', 'compute', 'memory'},
}


def check_schema(found):
    """The fields of a plan that compiled."""
    assert {*SCHEMA, *PLAIN, *LISTS} == {*found}
    for name, fields in SCHEMA.items():
        assert set(found[name]) == fields, name
    for name, fields in LISTS.items():
        rows = found.get(name, [])
        assert all(set(row) == fields for row in rows), name


PLANS = sorted((ROOT / 'docs' / 'plans').glob('*.json'))


@pytest.mark.parametrize('path', PLANS, ids=lambda path: path.stem)
def test_kept_plans(path):
    found = json.loads(path.read_text())
    parse_topology(found['topology'])
    if 'step' in found:
        check_schema(found)
        assert 0 < found['step']['overlapped']['mfu'] <= 1
        assert found['flops']['executed'] >= found['flops']['useful']
    else:
        assert not found['memory']['fits']
    tables.table(found)


def test_a_kernel_of_tpus_is_refused_on_gpus():
    config = tiny.parsed({'model.attention': 'splash', 'data.seq_len': 128})
    with pytest.raises(ConfigError) as caught:
        plan(config, parse_topology('h100:1x1'))
    assert caught.value.field == 'config.model.attention.name'


@pytest.mark.parametrize(
    ('changes', 'field'),
    [
        ({'mesh.fsdp': 3}, 'config.mesh'),
        ({'mesh.data': 2}, 'config.mesh'),
        ({'data.batch_size': 4}, 'config.data.batch_size'),
    ],
)
def test_what_does_not_fit_the_topology_is_refused(changes, field):
    with pytest.raises(ConfigError) as caught:
        plan(tiny.parsed(changes), parse_topology('v5p:2x2x2'))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ('topology', 'links'),
    [
        pytest.param('v5e:2x2', {'ici'}, marks=needs_compiler),
        pytest.param('h100:2x2', {'nvlink', 'network'}, marks=needs_cuda),
    ],
)
def test_a_whole_plan(tmp_path, topology, links):
    config = small(tmp_path)
    output = tmp_path / 'deep' / 'plan.json'
    done = command(
        f'--config={config}', f'--topology={topology}', f'--json={output}'
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    check_schema(found)
    assert found['chips'] == 4
    assert found['mesh']['fsdp'] == 2
    # Parameters, float32: attention 3 * 4 * 256^2, experts
    # 3 * 4 * 3 * 256 * 512, routers 3 * 256 * 4, norms 7 * 256, two tables.
    total = 786_432 + 4_718_592 + 3072 + 1792 + 2 * 65_536
    assert found['parameters']['total'] == total
    # All but routers and norms are split over fsdp: 2.
    whole = 3072 + 1792
    split = (total - whole) / 2 + whole
    assert found['memory']['parameters'] == 4 * split
    assert 8 * split <= found['memory']['optimizer'] < 8 * split + 100
    assert found['memory']['fits']
    # Three layers' forward, again, and backward: more than 4/3, and dropping
    # nothing of what a loop repeats.
    assert 0.3 < found['flops']['useful_over_executed'] < 0.75
    axes = {row['axes'] for row in found['collectives']}
    assert any('fsdp' in name for name in axes)
    assert all(set(row['links']) == links for row in found['collectives'])
    assert 0 < found['step']['not_overlapped']['mfu'] < 1
    parts = {row['part']: row['compute'] for row in found['parts']}
    assert sum(parts.values()) == pytest.approx(found['step']['compute'])
    # The experts' forward products once more, and twice in the backward pass.
    assert parts['moe, recomputed'] == pytest.approx(
        parts['moe, forward'], rel=0.2
    )
    assert parts['moe, backward'] > 1.5 * parts['moe, forward']
    assert 'tokens/s' in done.stdout


@needs_compiler
@pytest.mark.parametrize(
    ('config', 'unit', 'model'),
    [
        ('multitask.py:mmoe,synthetic', 'examples', set()),
        pytest.param(
            *('vision.py:vmoe', 'tokens', SCHEMA['model']),
            marks=pytest.mark.long,
        ),
    ],
)
def test_plans_of_other_workloads(tmp_path, config, unit, model):
    output = tmp_path / 'plan.json'
    done = command(
        f'--config=configs/{config}', '--topology=v5e:2x2', f'--json={output}'
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    assert found['batch']['unit'] == unit
    assert set(found['model']) == model
    check_schema(found | {'model': dict.fromkeys(SCHEMA['model'])})
    assert found['memory']['fits']
    # All that is executed is counted, and half of it or more is asked for.
    assert 0.4 < found['flops']['useful_over_executed'] <= 1.01
    assert f'{unit}/s' in done.stdout

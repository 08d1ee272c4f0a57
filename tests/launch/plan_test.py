"""The command: errors in one line, candidates, tables, one whole plan."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

from launch import plan as command_module
from launch.planning import compare, tables
from launch.planning.chips import parse_topology
from launch.planning.hlo import HLOError
from launch.planning.machines import GIB
from launch.planning.planner import plan
from moe.config import ConfigError, changed
from moe.workloads import registry
from moe.workloads.planned import planning_of
from tests import tiny

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent.parent
needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None,
    reason='needs the TPU compiler: pip install moe[plan]',
)


# Of the tests, or of jax in the process that runs them.
UNWANTED = (
    'JAX_DISABLE_MOST_OPTIMIZATIONS',
    'JAX_NUM_CPU_DEVICES',
    'TPU_LIBRARY_PATH',
)


def command(*flags, start=('-m', 'launch.plan')):
    """Runs the command without the tests' settings of the compiler."""
    environment = {n: v for n, v in os.environ.items() if n not in UNWANTED}
    paths = [str(ROOT), environment.get('PYTHONPATH', '')]
    environment['PYTHONPATH'] = os.pathsep.join(filter(None, paths))
    return subprocess.run(
        [sys.executable, *start, *flags],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_topology_that_is_none_is_told_in_one_line():
    done = command('--config=configs/models.py', '--topology=v5p:4x4')
    assert done.returncode == 2
    assert done.stderr == (
        "launch.plan: --topology = 'v5p:4x4': must be 3 sizes after v5p, such "
        'as v5p:4x4x4\n'
    )


def test_without_the_compiler_the_extra_is_named(tmp_path):
    # Hides the compiler where there is one.
    hide = tmp_path / 'hide.py'
    hide.write_text(
        'import runpy, sys\n'
        "sys.modules['libtpu'] = None\n"
        "runpy.run_module('launch.plan', run_name='__main__')\n"
    )
    done = command(
        '--config=configs/models.py:olmoe_1b_7b',
        '--topology=v5p:2x2x2',
        start=(str(hide),),
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith('pip install moe[plan]')
    assert 'Traceback' not in done.stderr


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


def test_meshes_that_divide():
    # Four devices, two sequences of 16 wide tokens: two of the four devices
    # must share a sequence, over the two key heads.
    changes = {'data.batch_size': 2, 'model.num_layers': 1}
    found = list(compare.meshes(planning_of(tiny.parsed(changes)), 4))
    sizes = {tuple(mesh.values()) for mesh in found}
    assert sizes == {(2, 1, 1, 2), (1, 2, 1, 2), (1, 1, 2, 2)}
    assert len(found) == 3


def test_candidates_change_the_config():
    config = tiny.parsed()
    plain, planning = registry.plain_of(config), planning_of(config)
    found = compare.candidates(planning, parse_topology('v5p:2x2x1'))
    first = changed(plain, found[0])
    # All four devices share the parameters before anything is copied.
    assert first['mesh'] == {**plain['mesh'], 'data': 1, 'fsdp': 4}
    policies = {change['model.remat'] for change in found}
    assert policies == {'none', 'dots', 'hidden', 'full'}
    found_names = {
        (change['mesh.expert'] > 1, change['model.moe.communication'])
        for change in found
    }
    assert found_names == {(False, 'none')} | {
        (True, name) for name in ('none', 'all_to_all', 'ragged', 'gather')
    }
    # No plan twice.
    assert len({str(change) for change in found}) == len(found)
    assert plain['mesh']['data'] == -1
    for changes in found:
        tiny.check(changed(plain, changes))


def made(seconds=4.0, fits=True):
    """A plan of round numbers."""
    at = {'seconds': seconds, 'mfu': 0.5, 'units_per_second': 1000.0}
    return {
        'topology': 'v5p:4x4x8',
        'chips': 128,
        'mesh': {'data': 4, 'fsdp': 32, 'tensor': 1},
        'batch': {'examples': 8, 'unit': 'tokens', 'units_per_chip': 1.0},
        'parameters': {'total': 3e9, 'active': 1e9},
        'memory': {
            'parameters': 2 * GIB,
            'temporaries': GIB,
            'sum': 3 * GIB,
            'there': 95 * GIB,
            'fits': fits,
        },
        'compile_seconds': 60.0,
        'flops': {
            'useful': 2e15,
            'executed': 4e15,
            'useful_over_executed': 0.5,
        },
        'hbm_bytes': 1e12,
        'parts': [
            {'part': 'moe, recomputed', 'compute': 0.75, 'memory': 0.25},
            {'part': 'rest, forward', 'compute': 0.001, 'memory': 0.0},
        ],
        'collectives': [
            {
                'kind': 'all-gather',
                'axes': 'fsdp',
                'count': 3,
                'bytes': 5e9,
                'seconds': 0.5,
                'links': {'ici': 5e9},
            }
        ],
        'mixtures': {
            'runs': 2,
            'minimum': 1e9,
            'forward': [
                {
                    'kind': 'all-to-all',
                    'axes': 'expert',
                    'count': 4,
                    'bytes': 2e9,
                    'seconds': 0.5,
                    'links': {'ici': 2e9},
                }
            ],
            'recomputed': [],
            'backward': [],
        },
        'step': {
            'compute': 2.0,
            'memory': 1.5,
            'network': 0.5,
            'overlapped': at,
            'not_overlapped': at,
        },
    }


def test_table():
    text = tables.table(made())
    assert 'v5p:4x4x8: 128 chips, mesh data 4 x fsdp 32\n' in text
    assert '3.00B parameters, 1.00B active' in text
    assert 'sum                   3.00 of 95: fits\n' in text
    assert '(50% useful)' in text
    assert 'MFU 0.500, 1,000 tokens/s' in text
    assert '  moe, recomputed            0.750     0.250\n' in text
    assert 'rest' not in text
    # One run's share of four, and of two gigabytes.
    assert 'with at least 1.000 GB of rows a pass\n' in text
    line = next(x for x in text.splitlines() if 'all-to-all' in x)
    assert line.split() == [
        'forward',
        'all-to-all',
        'expert',
        '2',
        '1.000',
        'GB',
    ]
    assert 'does NOT fit' in tables.table(made(fits=False))


def test_ranking_is_by_time_among_those_that_fit():
    plans = [
        {'changes': {'mesh.fsdp': 1}, **made(fits=False)},
        {'changes': {'mesh.fsdp': 2}, **made(5.0)},
        {'changes': {'mesh.fsdp': 3}, 'refused': 'an MFU of 2'},
        {'changes': {'mesh.fsdp': 4}, **made(4.0)},
    ]
    lines = tables.ranking(plans).splitlines()[1:]
    order = [line.partition('fsdp=')[2][0] for line in lines]
    assert order == ['4', '2', '1', '3']
    assert 'does not fit' in lines[2]


def small(folder):
    """A config that compiles in seconds; four devices fit it."""
    changes = {
        'model.d_model': 256,
        'model.dense.hidden': 512,
        'model.num_layers': 3,
        'model.moe.experts.hidden': 512,
        'model.moe.dispatcher': 'onehot',
        'model.moe.capacity': {'name': 'factor', 'train': 1.0, 'eval': None},
        'model.dtype': 'bfloat16',
        'model.remat': 'full',
        'data.seq_len': 128,
        'data.batch_size': 8,
        'mesh.data': 2,
        'mesh.fsdp': 2,
    }
    return tiny.write_config(folder / 'tiny.py', tiny.plain(changes))


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


def test_compare(tmp_path, monkeypatch, capsys):
    # Only the compiler is not there: some plans take 4 seconds, some 3, and
    # some cannot be read.
    def fake(config, topology):
        if config.model.remat == 'full':
            raise HLOError('loop x: no trip count in its condition')
        return made(3.0 if config.model.remat == 'hidden' else 4.0)

    monkeypatch.setattr(command_module, 'plan', fake)
    output = tmp_path / 'plans.json'
    argv = [
        'plan',
        f'--config={small(tmp_path)}',
        '--topology=v5e:2x2',
        '--compare',
        '--limit=12',
        f'--json={output}',
    ]
    assert command_module.main(argv) == 0
    plans = json.loads(output.read_text())['plans']
    assert len(plans) == 12
    for found in plans:
        unread = found['changes']['model.remat'] == 'full'
        assert ('no trip count' in found.get('refused', '')) == unread
    _, *lines = capsys.readouterr().out.splitlines()
    kinds = [line.partition('remat=')[2] for line in lines]
    assert kinds[0] == 'hidden'
    assert kinds[-1].startswith('full: loop x')
    places = {'hidden': 0, 'dots': 1, 'none': 1, 'full': 2}
    order = [places[kind.partition(':')[0]] for kind in kinds]
    assert order == sorted(order)
    assert set(order) == {0, 1, 2}


@needs_compiler
def test_a_whole_plan(tmp_path):
    config = small(tmp_path)
    output = tmp_path / 'deep' / 'plan.json'
    done = command(
        f'--config={config}', '--topology=v5e:2x2', f'--json={output}'
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
        ('vision.py:vmoe', 'tokens', SCHEMA['model']),
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

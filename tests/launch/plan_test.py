"""The command: errors in one line, and comparisons."""

import json

import jax
import pytest

from launch import plan as command_module
from launch.planning.hlo import HLOError
from tests.launch.planning.runs import command, made, small

pytestmark = pytest.mark.slow


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


def test_without_the_cuda_compiler_its_command_is_told(tmp_path):
    hide = tmp_path / 'hide.py'
    hide.write_text(
        'import runpy, sys\n'
        "sys.modules['jax_plugins'] = None\n"
        f'sys.prefix = {str(tmp_path)!r}\n'
        "runpy.run_module('launch.plan', run_name='__main__')\n"
    )
    done = command(
        '--config=configs/models.py:olmoe_1b_7b',
        '--config.model.attention=cudnn',
        '--topology=h100:8x8',
        start=(str(hide),),
    )
    assert done.returncode == 2
    version = jax.__version__
    assert done.stderr.splitlines()[-1] == (
        'launch.plan: h100:8x8: the CUDA compiler is missing: pip install '
        f'--no-deps --target={tmp_path}/cuda jax-cuda13-pjrt=={version} '
        f'jax-cuda13-plugin=={version}'
    )
    assert 'Traceback' not in done.stderr


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
    _, *lines, note = capsys.readouterr().out.splitlines()
    assert note.startswith('the sum has kernels')
    kinds = [line.partition('remat=')[2] for line in lines]
    assert kinds[0] == 'hidden'
    assert kinds[-1].startswith('full: loop x')
    places = {'hidden': 0, 'dots': 1, 'none': 1, 'full': 2}
    order = [places[kind.partition(':')[0]] for kind in kinds]
    assert order == sorted(order)
    assert set(order) == {0, 1, 2}

"""The command that samples, on a folder with an untrained model."""

import json
import re

import jax
import numpy as np
import pytest

from moe.training.checkpoint import Checkpoints
from moe.training.folder import write_plain_config
from tests import commands, tiny

pytestmark = pytest.mark.slow

# Arguments beside the workdir, and what the one line must hold.
WRONG = {
    'no prompt': (['--prompt='], ['--prompt', 'at least one byte']),
    'no length': (['--length=0'], ['length', '0']),
    'half a byte': (['--length=1.5'], ['length', '1.5', 'an int']),
    'cold': (['--temperature=-1'], ['temperature', '-1']),
    'too many': (['--top=257'], ['top', '257']),
    'no share': (['--top_p=0'], ['top_p', '0.0']),
    'no such file': (['--prompts_file=no/such'], ['--prompts_file', 'no/such']),
    'too long': (
        ['--prompt=a', '--prompt=bc', '--length=15'],
        ['length = 15', 'at most 14'],
    ),
    'unknown flag': (['--promt=x'], ['promt']),
    'stray argument': (['def'], ['def', 'absent']),
    'no such folder': (['--workdir=no/such'], ['workdir', "run's folder"]),
}
SPEED = (
    r'first tokens after [\d.]+ s, compiling included; then [\d.]+ tokens/s\n'
)
SAMPLE = ['--prompt=ab<\u00e9', '--length=6', '--temperature=0']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A run's folder with the checkpoint of an untrained model."""
    folder = tmp_path_factory.mktemp('runs') / 'run'
    folder.mkdir()
    plain = tiny.plain()
    write_plain_config(folder, plain)
    state = jax.device_put(tiny.state(tiny.check(plain)))
    checkpoints = Checkpoints(folder, keep=1)
    state = state._replace(step=np.int32(1))
    checkpoints.save(1, state, {'next_index': 1})
    checkpoints.close()
    return folder


@pytest.fixture(scope='module')
def results(folder, tmp_path_factory):
    """What came of every command line, the good ones last."""
    empty = tmp_path_factory.mktemp('empty')
    write_plain_config(empty, tiny.plain())
    workdir = [f'--workdir={folder}']
    lines = {name: [*workdir, *given] for name, (given, _) in WRONG.items()}
    lines['no checkpoint'] = [f'--workdir={empty}']
    lines['greedy'] = [*workdir, *SAMPLE]
    lines['again'] = [*workdir, *SAMPLE, '--seed=5']
    texts = tmp_path_factory.mktemp('texts') / 'prompts.txt'
    texts.write_text('ab<\u00e9\nq\n')
    batch = [f'--prompts_file={texts}', *SAMPLE[1:], '--json']
    lines['batch'] = [*workdir, *batch]
    output = tmp_path_factory.mktemp('output')
    with tiny.kept_programs(tmp_path_factory.mktemp('programs')) as env:
        found = commands.run_all('moe.sample', lines.values(), output, env)
    return dict(zip(lines, found, strict=True))


@pytest.mark.parametrize('name', [*WRONG, 'no checkpoint'])
def test_wrong_command_lines(results, name):
    code, out, err = results[name]
    assert code == 2, err
    assert out == ''
    (line,) = err.splitlines()
    assert line.startswith('moe.sample: ')
    words = WRONG.get(name, (None, ['workdir', 'a run with a checkpoint']))[1]
    for word in words:
        assert word in line


def test_prints_the_prompt_and_its_continuation(results):
    code, out, err = results['greedy']
    assert code == 0
    assert re.fullmatch(SPEED, err)
    assert out.startswith('ab<\u00e9')
    # Six bytes of any kind, and the line's end.
    assert 1 <= len(out) - len('ab<\u00e9') - 1 <= 6
    # The likeliest bytes are the same whatever the seed of the draw.
    assert results['again'][:2] == results['greedy'][:2]


def test_a_batch_as_json(results):
    code, out, err = results['batch']
    assert code == 0
    assert re.fullmatch(SPEED, err)
    first, second = map(json.loads, out.splitlines())
    assert (first['prompt'], second['prompt']) == ('ab<\u00e9', 'q')
    # The likeliest tokens are those of each prompt alone.
    alone = results['greedy'][1]
    assert first['prompt'] + first['continuation'] + '\n' == alone


def test_the_command_itself(tmp_path):
    result = commands.run('-m', 'moe.sample', f'--workdir={tmp_path}')
    assert result.code == 2
    assert result.out == ''
    (line,) = result.err.splitlines()
    assert line.startswith(f"moe.sample: workdir = '{tmp_path}'"[:70])

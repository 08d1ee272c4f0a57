"""The command that trains: what is wrong with it is told in one line."""

import os

import pytest

from tests import commands, tiny

pytestmark = pytest.mark.slow

CONFIG = '--config=configs/lm.py'
TASKS = ('-' + CONFIG, '--config=configs/multitask.py:mmoe,synthetic')

# Arguments beside the config file and the workdir, and what the one line must
# hold: the field and what is allowed. `-` takes an argument away.
WRONG = {
    'unknown field': (
        ['--config.model.moe.num_expert=4'],
        ['config.model.moe.num_expert', '(nearest: num_experts)'],
    ),
    'unknown section': (
        ['--config.modle.d_model=4'],
        ['config.modle', '(nearest: model)'],
    ),
    'unknown option': (
        ['--config.model.moe.router.renormalise=True'],
        ['config.model.moe.router.renormalise', '(nearest: renormalize)'],
    ),
    'word for a number': (['--config.steps=many'], ['config.steps', 'an int']),
    'part of a number': (['--config.steps=1.5'], ['config.steps', 'an int']),
    'number for a switch': (
        ['--config.model.tie_embeddings=maybe'],
        ['config.model.tie_embeddings', 'a bool'],
    ),
    'not finite': (
        ['--config.optimizer.learning_rate=nan'],
        ['config.optimizer.learning_rate', 'a float'],
    ),
    'more choices than experts': (
        ['--config.model.moe.num_experts=16', '--config.model.moe.router.k=17'],
        ['config.model.moe.router.k', 'at most num_experts (16)'],
    ),
    'experts do not divide': (
        ['--config.model.moe.num_experts=16', '--config.mesh.expert=3'],
        ['config.mesh.expert', 'a divisor of num_experts (16)'],
    ),
    'negative capacity': (
        [
            '--config.model.moe.capacity.name=factor',
            '--config.model.moe.capacity.train=-1.0',
        ],
        ['config.model.moe.capacity.train', 'greater than 0.0'],
    ),
    'no such dispatcher': (
        ['--config.model.moe.dispatcher=sorted'],
        ['config.model.moe.dispatcher.name', 'grouped, indexed, onehot'],
    ),
    'no such router': (
        ['--config.model.moe.router.name=best'],
        ['config.model.moe.router.name', 'top_k'],
    ),
    'no section': (
        ['--config.model=3'],
        ['config.model', 'a section with the fields'],
    ),
    'stray argument': (
        ['config.steps=3'],
        ['config.steps=3', 'absent (a flag starts with --)'],
    ),
    'unknown flag': (['--workdri=x'], ['--workdri', 'no such flag']),
    'no config': (['-' + CONFIG], ['--config', 'given']),
    'no workdir': (['-workdir'], ['--workdir', 'given']),
    'unknown variant': (
        ['-' + CONFIG, '--config=configs/lm.py:quick'],
        ['quick', 'quickstart, dense, switch, top2, dropless'],
    ),
    'no such config file': (
        ['-' + CONFIG, '--config=configs/no.py'],
        ['--config', 'configs/no.py', 'a config file'],
    ),
    'no such text': (
        ['--config.data.source.files=no/such/*.txt'],
        ['config.data.source.files', 'there is no such file'],
    ),
    'too long a sequence': (
        [
            '--config.data.source.files=configs/l*.py',
            '--config.data.seq_len=1000000',
        ],
        ['config.data.source.files', 'seq_len + 1 = 1000001'],
    ),
    'a file for a folder': (
        [
            '-workdir',
            '--workdir=README.md',
            '--config.data.source.files=moe/*.py',
        ],
        ['workdir', 'README.md', 'a folder'],
    ),
    'no such table': (
        ['-' + CONFIG, '--config=configs/multitask.py:mmoe,census'],
        ['config.data.source.files', 'census-income.data.gz', 'no such file'],
    ),
    'weights of other tasks': (
        [*TASKS, '--config.balance.weights=(1.0,)'],
        ['config.balance.weights', 'one number for each of 2 tasks'],
    ),
    'options of another mixture': (
        [
            *TASKS,
            '--config.model.mixture.name=ple',
            '--config.model.mixture.num_experts=4',
        ],
        ['config.model.mixture.num_experts', "'ple' has no such option"],
    ),
    'several processes, and nothing that says which': (
        ['--distributed'],
        ['--distributed', 'absent, but on SLURM and TPU pods'],
    ),
    'several processes, half told': (
        ['--processes=2', '--process=0'],
        ['--coordinator', 'given with the others'],
    ),
    'too many devices': (
        ['--config.data.source.files=moe/*.py', '--config.mesh.fsdp=3'],
        ['config.mesh', "'fsdp': 3", 'number of devices (8)'],
    ),
    'a batch that no memory holds': (
        [
            '--config.data.source.files=moe/*.py',
            '--config.data.batch_size=1000000000',
        ],
        ['config.data.batch_size = 1000000000', 'GiB', 'for activations'],
    ),
    'experts that no memory holds': (
        [
            '--config.data.source.files=moe/*.py',
            '--config.model.moe.num_experts=100000000',
            '--config.data.batch_size=64',
        ],
        ['config.model', 'parameters', 'GiB', 'for optimizer state'],
    ),
    'more steps than an integer counts': (
        ['--config.steps=99999999999999999999'],
        ['config.steps = 99999999999999999999', 'an int of 64 bits'],
    ),
    'seed of another seed': (
        ['--config.seed=4294967296'],
        ['config.seed = 4294967296', 'between 0 and 4294967295'],
    ),
    'a bucket for a folder': (
        [
            '-workdir',
            '--workdir=gs://bucket/run',
            '--config.data.source.files=moe/*.py',
        ],
        ['workdir', 'mount object storage'],
    ),
    'a prompt that is no UTF-8': (
        ['--config.sample_prompt=\udce9'],
        ['config.sample_prompt', 'a text in UTF-8'],
    ),
    'batch does not divide': (
        ['--config.data.source.files=moe/*.py', '--config.data.batch_size=12'],
        ['config.data.batch_size = 12', 'a multiple of 8 devices'],
    ),
}


def command_line(arguments, workdir):
    line = [CONFIG, f'--workdir={workdir}']
    for argument in arguments:
        if argument.startswith('-' + CONFIG):
            line.remove(CONFIG)
        elif argument == '-workdir':
            line = [a for a in line if not a.startswith('--workdir')]
        else:
            line.append(argument)
    return line


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    """What came of every command line, and its workdir."""
    given = {name: arguments for name, (arguments, _) in WRONG.items()}
    given['help'] = ['--help']
    base = tmp_path_factory.mktemp('runs')
    folders = [base / str(i) for i in range(len(given))]
    lines = map(command_line, given.values(), folders)
    output = tmp_path_factory.mktemp('output')
    found = commands.run_all('train', lines, output)
    return dict(zip(given, zip(found, folders, strict=True), strict=True))


@pytest.mark.parametrize('name', WRONG)
def test_wrong_command_lines(results, name):
    result, folder = results[name]
    assert result.code == 2, result
    (line,) = result.err.splitlines()
    assert line.startswith('train.py: ')
    assert ': must be ' in line
    for word in WRONG[name][1]:
        assert word in line
    assert result.out == ''
    assert not folder.exists()


def test_the_command_itself(tmp_path):
    # The script as it is typed, and the code that the shell sees.
    folder = tmp_path / 'run'
    result = commands.run(
        'train.py', CONFIG, f'--workdir={folder}', '--config.steps=0'
    )
    line = 'train.py: config.steps = 0: must be at least 1\n'
    assert result == commands.Result(2, '', line)
    assert not folder.exists()


def test_divergence(tmp_path):
    # A learning rate of 1e30 makes the second loss no number.
    plain = tiny.plain(
        {
            'data.source.files': tiny.write_corpus(tmp_path / 'corpus'),
            'optimizer.learning_rate': 1e30,
            'model.moe_every': 0,
            'eval_every': 6,
            'checkpoint_every': 6,
        }
    )
    config = tiny.write_config(tmp_path / 'config.py', plain)
    arguments = [f'--config={config}', f'--workdir={tmp_path / "run"}']
    quick = {**os.environ, 'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'}
    (result,) = commands.run_all('train', [arguments], tmp_path, quick)
    assert result.code == 1, result
    (line,) = result.err.splitlines()
    assert line.startswith('train.py: train/loss is ')
    assert 'config.optimizer.learning_rate' in line
    assert 'Traceback' not in result.out
    assert (tmp_path / 'run' / 'metrics.jsonl').exists()


def test_help(results):
    # Asked for, it is no mistake.
    result, folder = results['help']
    assert (result.code, result.err) == (0, '')
    assert '--workdir' in result.out
    assert '--config' in result.out
    assert not folder.exists()

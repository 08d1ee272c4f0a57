"""What a file of trials becomes: names, configs, commands."""

import pathlib
import shlex

import pytest
from absl import flags

from launch import hyper, manifest, trials
from moe.command_line import define_config, read_config
from moe.config import ConfigError, Text
from moe.workloads import registry
from tests import tiny
from tests.launch import sweeps

pytestmark = pytest.mark.slow

READY = sorted(
    path
    for path in (pathlib.Path(__file__).parents[2] / 'configs/sweeps').iterdir()
    if path.suffix == '.py' and path.stem not in ('__init__', 'small')
)


def read(tmp_path, text, overrides=None, changes=None):
    config = sweeps.write(tmp_path, text, changes)
    return trials.read_sweep(config, overrides or {}, tmp_path / 'runs')


def names(sweep):
    return [trial.name for trial in sweep.trials]


def reread(trial):
    """The config of the trial's command, as typed into a shell."""
    script, *arguments = shlex.split(shlex.join(trial.command))
    assert script == 'train.py'
    assert arguments.pop() == f'--workdir={trial.folder}'
    values = flags.FlagValues()
    define_config(values)
    given = read_config(values, [script, *arguments])
    config = registry.read_config(given.plain, given.overrides)
    return registry.plain_of(config)


def test_overrides_of_the_base_are_read(tmp_path):
    text = "def sweep():\n    yield {'seed': 1}\n"
    sweep = read(tmp_path, text, {'steps': Text('7')})
    assert sweep.base['steps'] == 7


def test_options_of_slurm_are_not_of_the_config(tmp_path):
    text = (
        'def sweep():\n'
        "    yield {'seed': 1}\n"
        "    yield {'seed': 2, 'slurm.nodes': 2, 'slurm.minutes': 600}\n"
    )
    one, two = read(tmp_path, text).trials
    assert (dict(one.slurm), dict(two.slurm)) == (
        {},
        {'nodes': 2, 'minutes': 600},
    )
    # Neither its name, nor its command, nor what makes the sweep the same.
    assert two.name == 'seed=2'
    assert two.changes == {'seed': 2}
    assert 'slurm.' not in ' '.join(two.command)


# The five ways, as tables made by hand.
HYPER = {
    'sweep': (hyper.sweep('a', (1, 2)), [{'a': 1}, {'a': 2}]),
    'fixed': (hyper.fixed('a', 1, length=2), [{'a': 1}, {'a': 1}]),
    'product': (
        hyper.product([hyper.sweep('a', (1, 2)), hyper.sweep('b', (3, 4))]),
        [
            {'a': 1, 'b': 3},
            {'a': 1, 'b': 4},
            {'a': 2, 'b': 3},
            {'a': 2, 'b': 4},
        ],
    ),
    'zipit': (
        hyper.zipit([hyper.sweep('a', (1, 2)), hyper.fixed('b', 3, 2)]),
        [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}],
    ),
    'chainit': (
        hyper.chainit([hyper.sweep('a', (1,)), hyper.sweep('b', (2, 3))]),
        [{'a': 1}, {'b': 2}, {'b': 3}],
    ),
    'product of a zip': (
        hyper.product(
            [
                hyper.zipit([hyper.sweep('a', (1, 2)), hyper.sweep('b', 'xy')]),
                hyper.fixed('c', 0),
            ]
        ),
        [{'a': 1, 'b': 'x', 'c': 0}, {'a': 2, 'b': 'y', 'c': 0}],
    ),
}


@pytest.mark.parametrize('name', HYPER)
def test_hyper(name):
    found, expected = HYPER[name]
    assert found == expected


def test_hyper_refuses():
    with pytest.raises(ConfigError, match=r'hyper: a = 2: must be given once'):
        hyper.product([hyper.fixed('a', 1), hyper.fixed('a', 2)])
    with pytest.raises(ConfigError, match=r'\[1, 2\]: must be parts of one'):
        hyper.zipit([hyper.fixed('a', 1), hyper.fixed('b', 2, 2)])


def test_both_conventions_agree(tmp_path):
    first = read(
        tmp_path,
        sweeps.of_list([{'config.seed': 0, 'model.moe.router.k': 1}]),
    )
    second = read(
        tmp_path,
        'def get_hyper(hyper):\n'
        "    return hyper.product([hyper.fixed('seed', 0),\n"
        "        hyper.sweep('config.model.moe.router.k', (1,))])\n",
    )
    assert first.trials[0] == second.trials[0]
    assert dict(first.trials[0].changes) == {'seed': 0, 'model.moe.router.k': 1}


TWO = [
    {'model.moe.router.k': k, 'seed': seed, 'optimizer.learning_rate': 1e-3}
    for k in (1, 2)
    for seed in (0, 1)
]


def test_names_are_of_what_differs(tmp_path):
    # The learning rate is the same in all; fields are in order of the alphabet.
    sweep = read(tmp_path, sweeps.of_list(TWO))
    assert sweep.fields == ('model.moe.router.k', 'seed')
    assert names(sweep) == [
        'k=1,seed=0',
        'k=1,seed=1',
        'k=2,seed=0',
        'k=2,seed=1',
    ]
    for trial, changes in zip(sweep.trials, TWO, strict=True):
        assert trial.folder == tmp_path / 'runs' / trial.name
        assert trial.plain['seed'] == changes['seed']
        assert (
            trial.plain['model']['moe']['router']['k']
            == (changes['model.moe.router.k'])
        )
        assert trial.plain['optimizer']['learning_rate'] == 1e-3


def test_names_do_not_depend_on_the_order(tmp_path):
    forward = read(tmp_path, sweeps.of_list(TWO))
    backward = read(
        tmp_path,
        sweeps.of_list([dict(reversed(t.items())) for t in TWO[::-1]]),
    )
    assert names(forward) == names(backward)[::-1]
    plain = lambda sweep: {t.name: t.plain for t in sweep.trials}
    assert plain(forward) == plain(backward)


def test_names_of_sections(tmp_path):
    # Routers by name, and by what two of the same name differ in; a value that
    # is no good for a file is made one.
    section = {'name': 'top_k', 'renormalize': True, 'ties': 'lowest'}
    sweep = read(
        tmp_path,
        sweeps.of_list(
            [
                {'model.moe.router': section | {'k': 2}},
                {'model.moe.router': section | {'k': 1}},
                {'model.moe.router': {'name': 'hash', 'k': 2, 'seed': 0}},
                {'losses': {'router_z': 0.1}},
                {'sample_prompt': 'a/b c'},
                {'sample_prompt': '../x'},
            ]
        ),
    )
    kept = 'losses=load_balance0.01-router_z0.001'
    assert names(sweep)[:3] == [
        f'{kept},router=top_k-k2,sample_prompt=def-',
        f'{kept},router=top_k-k1,sample_prompt=def-',
        f'{kept},router=hash,sample_prompt=def-',
    ]
    for trial in sweep.trials:
        assert trial.folder.parent == tmp_path / 'runs'
        assert '/' not in trial.name
        assert len(trial.name) < 200
        assert reread(trial) == trial.plain
    assert len(set(names(sweep))) == 6
    assert sweep.trials[3].plain['losses'] == {'router_z': 0.1}


def test_names_that_would_be_the_same(tmp_path):
    # Both are written a-b: a hash of the config tells them apart.
    prompts = [{'sample_prompt': 'a b'}, {'sample_prompt': 'a?b'}]
    one, two = names(read(tmp_path, sweeps.of_list(prompts)))
    assert one != two
    assert {one[:15], two[:15]} == {'sample_prompt=a'}
    other = names(read(tmp_path, sweeps.of_list(prompts[::-1])))
    assert other == [two, one]


# What has to be said by a flag.
VALUES = {
    'none': {'optimizer.clip_norm': None},
    'none already': {'model.moe.shared': None},
    'a section that is not there': {'model.moe.shared.network.hidden': 8},
    'entry by name': {'model.moe.capacity': 'factor'},
    'option of another entry': {
        'model.moe.capacity.name': 'factor',
        'model.moe.capacity.train': 1.5,
    },
    'whole number for a float': {'optimizer.clip_norm': 2},
    'switch': {'model.tie_embeddings': True},
    'text with quotes': {'sample_prompt': 'it\'s "so" $HOME\n\\'},
    'text like a number': {'sample_prompt': '12'},
    'section': {'losses': {'router_z': 1e-9}},
    'empty section': {'losses': {}},
    'new field': {'losses.importance': 0.5},
    'section and a field of it': {
        'model.moe.router.k': 1,
        'model.moe.router': {'name': 'noisy_top_k', 'k': 2},
    },
    'list': {'losses': {'router_z': 1}, 'model.moe.num_groups': None},
}


@pytest.mark.parametrize('name', VALUES)
def test_the_command_gives_the_config(tmp_path, name):
    changes = VALUES[name]
    sweep = read(tmp_path, sweeps.of_list([changes]), {'steps': 9})
    (trial,) = sweep.trials
    files = sweep.base['data']['source']['files']
    given = {'data.source.files': files, **sweeps.QUICK, 'steps': 9}
    expected = tiny.resolved(tiny.merged(given, changes))
    assert trial.plain == expected
    assert reread(trial) == expected


WRONG = {
    'value': (
        [{'seed': 0}, {'seed': -1}],
        'trial seed=-1: config.seed = -1: must be between 0 and 4294967295',
    ),
    'unknown field': (
        [{'model.moe.num_expert': 4}],
        'trial trial: config.model.moe.num_expert = 4: must be absent: no such '
        'field (nearest: num_experts)',
    ),
    'unknown section': (
        [{'modle.d_model': 4}],
        'config.modle = 4: must be absent: no such field (nearest: model)',
    ),
    'field of a number': (
        [{'seed.x': 4}],
        'config.seed.x = 4: must be absent: config.seed is no section',
    ),
    'twice': (
        [{'seed': 0}, {'seed': 1}, {'seed': 1}],
        " = 'twice': must be given once",
    ),
    'none': ([], 'sweep = []: must be a trial or more'),
    'no dictionary': (
        [3],
        'sweep = "TypeError: \'int\' object is not iterable": must be an',
    ),
}


@pytest.mark.parametrize('name', WRONG)
def test_refused(tmp_path, name):
    given, line = WRONG[name]
    with pytest.raises(ConfigError) as error:
        read(tmp_path, sweeps.of_list(given))
    assert line in str(error.value)
    assert not (tmp_path / 'runs').exists()


def test_override_of_what_the_sweep_changes(tmp_path):
    text = sweeps.of_list([{'model.moe.router.k': 1}])
    for field in ('model.moe.router.k', 'model.moe.router', 'model'):
        with pytest.raises(ConfigError, match='the sweep changes'):
            read(tmp_path, text, {field: 1})


def test_file_without_a_sweep(tmp_path):
    with pytest.raises(ConfigError, match=r'one of sweep\(\) and get_hyper'):
        read(tmp_path, '')
    both = 'def sweep(): yield {}\ndef get_hyper(hyper): return [{}]\n'
    with pytest.raises(ConfigError, match=r'one of sweep\(\) and get_hyper'):
        read(tmp_path, both)


def test_manifest(tmp_path):
    # A folder holds one sweep, which can be read back, also elsewhere.
    sweep = read(tmp_path, sweeps.of_list(TWO))
    there = tmp_path / 'runs'
    manifest.check_same(there, sweep)
    manifest.write(there, sweep)
    assert manifest.read(there) == sweep
    manifest.check_same(there, sweep)
    for other, line in (
        (read(tmp_path, sweeps.of_list(TWO[:3])), 'sweep.k=2,seed=1'),
        (read(tmp_path, sweeps.of_list(TWO), {'steps': 9}), 'steps: 3 there'),
    ):
        with pytest.raises(ConfigError, match=line):
            manifest.check_same(there, other)
    moved = there.rename(tmp_path / 'moved')
    found = manifest.read(moved)
    assert [t.folder.parent for t in found.trials] == [moved] * 4
    with pytest.raises(ConfigError, match="a sweep's folder"):
        manifest.read(there)


@pytest.mark.parametrize('path', READY, ids=lambda p: p.stem)
def test_ready_sweeps(path, tmp_path):
    # Each is of two seeds or more, and can be run as it is.
    sweep = trials.read_sweep(str(path), {}, tmp_path)
    assert 3 <= len(sweep.trials) <= 14
    assert 'seed' in sweep.fields
    assert len(set(names(sweep))) == len(sweep.trials)
    assert {t.plain['seed'] for t in sweep.trials} >= {0, 1}


def test_granularity_keeps_flops_and_parameters(tmp_path):
    (path,) = (p for p in READY if p.stem == 'granularity')
    sections = [
        trial.plain['model']['moe']
        for trial in trials.read_sweep(str(path), {}, tmp_path).trials
    ]
    assert {s['router']['k'] for s in sections} == {1, 2, 4, 8}
    assert {s['router']['k'] * s['experts']['hidden'] for s in sections} == {
        128
    }
    assert {s['num_experts'] * s['experts']['hidden'] for s in sections} == {
        2048
    }

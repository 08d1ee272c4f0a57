"""Damage to checkpoints: told, set aside, and an older one is used.

Every file of a checkpoint is damaged in every way. What is right: either the
checkpoint's own state, bit for bit, if the file was not needed, or one line and
the older checkpoint; nothing else.
"""

import collections
import re

import pytest

from moe import training
from moe.checkpoints.verify import find_damage
from moe.config import ConfigError, Damaged
from moe.training.restore import list_checkpoints, restore, restore_newest
from tests import tiny
from tests.training import damage


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """A run with checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp('saved') / 'run'
    damage.save(folder, 2, 4)
    return folder


def outcome(found, told, folder):
    """Names what came of damage to step 4; anything wrong fails."""
    if found.step == 4:
        assert damage.same(found, 4)
        assert told == []
        return 'not needed'
    assert damage.same(found, 2)
    (line,) = told
    assert '\n' not in line
    assert re.match(rf'{folder}/checkpoints/4 is damaged: [\w/. ]+ \w+', line)
    return 'older one used'


@pytest.mark.slow
def test_every_file_damaged_in_every_way(saved, tmp_path):
    folder = damage.copy(saved, tmp_path / 'run')
    counts = collections.defaultdict(collections.Counter)
    place = folder / 'checkpoints' / '4'
    for name, raw in damage.files(place).items():
        for change in {**damage.KINDS, **damage.flips(2)}.values():
            damage.write(place / name, change(raw))
            found, damages = restore_newest(
                folder,
                list_checkpoints(folder),
                lambda path: restore(path, damage.like()),
            )
            counts[name][outcome(found, list(map(str, damages)), folder)] += 1
            (place / name).write_bytes(raw)
    # 16 files, 9 kinds. What holds values, or says where they are, is needed.
    assert sum(c.total() for c in counts.values()) == 9 * len(counts) >= 126
    for name in ('data/metadata', 'state/manifest.ocdbt'):
        assert counts[name] == {'older one used': 9}
    for name in ('_CHECKPOINT_METADATA', 'state/_METADATA'):
        assert counts[name]['older one used'] >= 7
    largest = max(counts, key=lambda name: (place / name).stat().st_size)
    assert counts[largest]['older one used'] >= 7


@pytest.mark.long
def test_every_file_and_what_a_run_does_then(saved, tmp_path, capfd):
    counts = collections.Counter()
    for name, raw in damage.files(saved / 'checkpoints' / '4').items():
        for change in {**damage.KINDS, **damage.flips(100)}.values():
            folder = damage.copy(saved, tmp_path / 'run')
            damage.write(folder / 'checkpoints' / '4' / name, change(raw))
            told_by_verify = find_damage(list_checkpoints(folder)[0])
            found, told = damage.resume(folder)
            counts[outcome(found, told, folder)] += 1
            assert bool(told_by_verify) == bool(told)
            # The run goes on; what was set aside is as it was.
            aside = folder / 'checkpoints' / 'damaged-4'
            assert aside.exists() == bool(told)
            if told:
                assert damage.files(aside).get(name) == change(raw)
            damage.save(folder, 6)
            assert damage.same(damage.resume(folder)[0], 6)
    assert capfd.readouterr().err == ''
    with capfd.disabled():
        print(f'\ndamaged files: {dict(counts)}')


def break_folder(kind, checkpoints):
    """Damages the folder of step 4 as a whole."""
    newest = checkpoints / '4'
    if kind == 'empty':
        damage.remove(newest)
        newest.mkdir()
    elif kind == 'foreign':
        damage.remove(newest)
        newest.mkdir()
        (newest / 'notes.txt').write_text('mine')
    elif kind == 'a file':
        damage.remove(newest)
        newest.write_text('4')
    elif kind == 'a dangling link':
        damage.remove(newest)
        newest.symlink_to('nowhere')
    elif kind == 'without arrays':
        damage.remove(newest / 'state')
    elif kind == 'without record':
        damage.remove(newest / 'data')
    elif kind == 'half-written':
        newest.rename(checkpoints / '4.orbax-checkpoint-tmp')
    elif kind == "another's arrays":
        damage.remove(newest / 'state')
        damage.copy(checkpoints / '2' / 'state', newest / 'state')
    else:
        assert kind == "another's record"
        damage.remove(newest / 'data')
        damage.copy(checkpoints / '2' / 'data', newest / 'data')


@pytest.mark.parametrize(
    'kind',
    [
        'empty',
        'foreign',
        'a file',
        'a dangling link',
        'without arrays',
        'without record',
        'half-written',
        "another's arrays",
        "another's record",
    ],
)
def test_folders(kind, saved, tmp_path):
    folder = damage.copy(saved, tmp_path / 'run')
    checkpoints = folder / 'checkpoints'
    break_folder(kind, checkpoints)
    found, (line,) = damage.resume(folder)
    assert damage.same(found, 2)
    name = '4.orbax-checkpoint-tmp' if kind == 'half-written' else '4'
    assert re.match(rf'{checkpoints}/{name} (is|holds) ', line)
    assert line.endswith(f'; set aside as checkpoints/damaged-{name}')
    damage.save(folder, 4, 6)
    assert damage.same(damage.resume(folder)[0], 6)
    names = sorted(path.name for path in checkpoints.iterdir())
    assert names == ['2', '4', '6', f'damaged-{name}']


def test_names_of_what_is_set_aside_never_collide(saved, tmp_path):
    folder = damage.copy(saved, tmp_path / 'run')
    for _ in range(3):
        (folder / 'checkpoints' / '4' / 'data' / 'metadata').unlink()
        assert damage.same(damage.resume(folder)[0], 2)
        damage.save(folder, 4)
    names = {path.name for path in (folder / 'checkpoints').iterdir()}
    aside = {'damaged-4', 'damaged-4-2', 'damaged-4-3'}
    assert names == {'2', '4', *aside}


def test_damage_is_told_once(saved, tmp_path):
    # A diverged run leaves the good one, too, and reads again.
    folder, told = damage.copy(saved, tmp_path / 'run'), []
    damage.flip_a_value(folder / 'checkpoints' / '4')
    with damage.opened(folder, tell=told.append) as checkpoints:
        assert damage.same(checkpoints.resume(damage.like()), 2)
        checkpoints.leave(0)
        assert checkpoints.resume(damage.like()) is None
    assert [line.rpartition('/')[2] for line in told] == [
        'damaged-4',
        'diverged-2',
    ]


@pytest.mark.parametrize('also', [False, True], ids=['alone', 'beside it'])
def test_the_step_of_the_state_decides(also, saved, tmp_path):
    # Folder 2 is named 9: what it holds is step 2, older than 4.
    folder = damage.copy(saved, tmp_path / 'run')
    checkpoints = folder / 'checkpoints'
    damage.copy(checkpoints / '2', checkpoints / '9')
    if not also:
        damage.remove(checkpoints / '2')
    found, (line,) = damage.resume(folder)
    assert damage.same(found, 4)
    assert line.startswith(f'{checkpoints}/9 holds step 2; ')
    names = {path.name for path in checkpoints.iterdir()}
    assert names == {'2', '4', 'damaged-9'} if also else {'2', '4'}
    damage.save(folder, 6)
    assert damage.same(damage.resume(folder)[0], 6)


def test_a_renamed_newest_one_is_what_it_holds(saved, tmp_path):
    folder = damage.copy(saved, tmp_path / 'run')
    (folder / 'checkpoints' / '4').rename(folder / 'checkpoints' / '039')
    found, (line,) = damage.resume(folder)
    assert damage.same(found, 4)
    assert line.endswith('039 holds step 4; renamed to 4')
    assert damage.resume(folder)[1] == []


def test_none_is_good(saved, tmp_path):
    folder = damage.copy(saved, tmp_path / 'run')
    for step in '24':
        path = folder / 'checkpoints' / step / 'state' / 'manifest.ocdbt'
        path.write_bytes(path.read_bytes()[:-1])
    (folder / 'checkpoints' / '6').mkdir()
    (folder / 'checkpoints' / '8.orbax-checkpoint-tmp').mkdir()
    before = damage.files(folder)
    with pytest.raises(Damaged) as caught:
        damage.resume(folder)
    line = str(caught.value)
    assert line.startswith(f'{folder}/checkpoints/6 is damaged: data/metadata')
    assert ', and so are 2 more (python -m moe.checkpoints verify' in line
    assert '\n' not in line
    assert damage.files(folder) == before
    assert (folder / 'checkpoints' / '6').exists()


def test_a_run_killed_in_its_first_checkpoint_begins_again(tmp_path):
    half = tmp_path / 'run' / 'checkpoints' / '2.orbax-checkpoint-tmp'
    half.mkdir(parents=True)
    found, (line,) = damage.resume(tmp_path / 'run')
    assert found is None
    assert 'is half-written; set aside as' in line


def test_another_model(saved, tmp_path):
    like = damage.like()
    other = like._replace(params={**like.params, 'zeros': like.step})
    where = r'leaf params/zeros is float32\[3, 4\] there and int32\[\] here'
    folder = damage.copy(saved, tmp_path / 'run')
    with pytest.raises(ConfigError, match=where):
        damage.resume(folder, other)
    assert damage.files(folder) == damage.files(saved)
    # An own one that is older is used.
    damage.save_other(folder, 6)
    found, (line,) = damage.resume(folder)
    assert damage.same(found, 4)
    assert line.startswith(f'{folder}/checkpoints/6 is of another model: leaf ')


@pytest.mark.slow
def test_a_new_run_over_them_leaves_no_trace(saved, tmp_path):
    # They were copied alone, and its config has another model.
    folder = damage.copy(saved, tmp_path / 'run')
    corpus = tiny.write_corpus(tmp_path / 'corpus')
    config = tiny.parsed({'data.source.files': corpus})
    with pytest.raises(ConfigError, match='4 is of another model: leaf '):
        training.run(config, folder)
    assert damage.files(folder) == damage.files(saved)
    (folder / 'checkpoints' / '4' / 'data' / 'metadata').unlink()
    before = damage.files(folder)
    with pytest.raises(Damaged, match='4 is damaged: data/metadata is missing'):
        training.run(config, folder)
    assert damage.files(folder) == before

"""Checkpoints: everything comes back, on any mesh."""

import contextlib
import functools
import pathlib

import chex
import jax
import numpy as np
import pytest

from moe.config import ConfigError
from moe.parallel import make_mesh, parameter_shardings, with_shardings
from moe.training.checkpoint import Checkpoints, restore_run, saved_steps
from moe.training.restore import restore
from moe.training.step import init_state
from moe.training.watch import BestConfig, Watch
from tests import tiny
from tests.training import damage
from tests.training.evaluation_test import Sums

pytestmark = pytest.mark.slow

SPREAD = {'mesh.data': 1, 'mesh.fsdp': 2, 'mesh.expert': 2, 'mesh.tensor': 2}
DATA = {'next_index': 7}


@functools.lru_cache
def shapes():
    return jax.eval_shape(lambda: init_state(tiny.parsed()))


@functools.lru_cache
def shardings(*changes):
    mesh = make_mesh(tiny.parsed(dict(changes)).mesh)
    return parameter_shardings(
        mesh, shapes(), tiny.parsed().make_workload().parameters
    )


@functools.lru_cache
def spread_state():
    """A state of step 7 over eight devices, split in all the ways."""
    state = tiny.state(tiny.parsed())._replace(step=np.int32(7))
    return jax.device_put(state, shardings(*SPREAD.items()))


@contextlib.contextmanager
def opened(folder, keep=2):
    with contextlib.closing(Checkpoints(folder, keep)) as checkpoints:
        yield checkpoints


def plain(state):
    """The same as NumPy arrays, the key's numbers too."""
    return jax.device_get(state._replace(key=jax.random.key_data(state.key)))


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """A folder with a checkpoint of step 7; tests leave it as it is."""
    folder = tmp_path_factory.mktemp('saved')
    assert saved_steps(folder) == []
    with opened(folder) as checkpoints:
        checkpoints.save(7, spread_state(), DATA)
    return folder


@pytest.mark.parametrize(
    'changes', [SPREAD, {}, {'mesh.fsdp': 4, 'mesh.tensor': 2}], ids=str
)
def test_restores_onto_any_mesh(saved, changes):
    # Saved split two ways over fsdp, expert and tensor; restored likewise, as
    # copies on all devices, and split otherwise.
    places = shardings(*changes.items())
    with opened(saved) as checkpoints:
        state, data = checkpoints.resume(with_shardings(shapes(), places))
    assert data == DATA
    chex.assert_trees_all_equal(plain(state), plain(spread_state()))
    chex.assert_trees_all_equal_dtypes(state, spread_state())
    for leaf, place in zip(
        jax.tree.leaves(state), jax.tree.leaves(places), strict=True
    ):
        assert leaf.sharding.is_equivalent_to(place, leaf.ndim)
    query = state.params['stack']['layers']['block_0']['attention']['query']
    fsdp = changes.get('mesh.fsdp', 1)
    tensor = changes.get('mesh.tensor', 1)
    local = query.addressable_shards[0].data.shape
    assert local == (2, 16 // fsdp, 2 // tensor, 8)


def test_restores_a_run_on_one_device(saved):
    state = restore_run(tiny.parsed(SPREAD), saved)
    chex.assert_trees_all_equal(plain(state), plain(spread_state()))
    devices = {d for leaf in jax.tree.leaves(state) for d in leaf.devices()}
    assert devices == {jax.devices()[0]}
    assert state.key.dtype == spread_state().key.dtype


def test_keeps_the_newest(tmp_path):
    with opened(tmp_path, keep=2) as checkpoints:
        for step in (2, 4, 6):
            state = spread_state()._replace(step=np.int32(step))
            checkpoints.save(step, state, {'next_index': step})
    assert saved_steps(tmp_path) == [4, 6]
    # Closed, all of it is on the disk and nothing half-written is left.
    folder = tmp_path / 'checkpoints'
    assert sorted(p.name for p in folder.iterdir()) == ['4', '6']
    like = with_shardings(shapes(), shardings(*SPREAD.items()))
    assert restore(folder / '4', like).position == {'next_index': 4}


def test_a_step_that_is_there_is_left_as_it_is(saved):
    def files():
        found = (p for p in pathlib.Path(saved).rglob('*') if p.is_file())
        return {p: p.read_bytes() for p in found}

    before = files()
    other = spread_state()._replace(step=np.int32(8))
    with opened(saved) as checkpoints:
        checkpoints.save(7, other, {'next_index': 8})
    assert files() == before


def test_no_checkpoint_yet(tmp_path):
    with pytest.raises(ConfigError) as caught:
        restore_run(tiny.parsed(), tmp_path)
    assert caught.value.field == 'workdir'
    assert caught.value.value == str(tmp_path)
    assert caught.value.allowed == 'the folder of a run with a checkpoint'


def test_the_best_are_kept(tmp_path):
    watch = Watch(BestConfig(keep=1), Sums(), tmp_path, 0)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.watched(watch)
    with contextlib.closing(checkpoints):
        for step, loss in ((1, 2.0), (2, 1.0), (3, 3.0), (4, 2.0)):
            watch.note(step, {'eval/loss': loss})
            checkpoints.save(step, damage.state(step), {})
    assert saved_steps(tmp_path) == [2, 4]

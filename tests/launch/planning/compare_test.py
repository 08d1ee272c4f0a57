"""What a comparison of plans tries."""

from launch.planning import compare
from launch.planning.chips import parse_topology
from moe.config import changed
from moe.workloads import registry
from moe.workloads.planned import planning_of
from tests import tiny


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

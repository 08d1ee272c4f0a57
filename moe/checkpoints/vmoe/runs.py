"""A published V-MoE checkpoint as the run of a vision transformer."""

import pathlib
from collections.abc import Sequence
from typing import Any

from moe.checkpoints.transform import new_folder, write_run
from moe.checkpoints.vmoe.files import read_arrays, read_index
from moe.checkpoints.vmoe.layout import made, published_names, read_model
from moe.config import ConfigError
from moe.training import history
from moe.training.checksum import leaf_names
from moe.workloads.registry import read_config

_STATE = 'params/'


def import_run(
    path: pathlib.Path,
    workdir: str | None,
    overrides: Sequence[tuple[str, Any]],
) -> int:
    """Reads a checkpoint into the folder of a new run; returns 0.

    Args:
      path: path of the index.
      workdir: folder of the run, which is new.
      overrides: fields of the run's config by dotted name.

    Raises:
      ConfigError: for files that are not whole, or a model that the vision
        transformer is not.
    """
    folder = new_folder(workdir)
    index = read_index(path)
    arrays, left = index.arrays, 0
    if any(name.startswith(_STATE) for name in arrays):
        # A state of training: the optimizer's arrays are others.
        own = {n: x for n, x in arrays.items() if n.startswith(_STATE)}
        left = len(arrays) - len(own)
        arrays = {n.removeprefix(_STATE): x for n, x in own.items()}
    model = read_model({name: x.shape for name, x in arrays.items()})
    plain = {
        'workload': 'vision',
        'model': model,
        # Pixels from -1 to 1.
        'data': {'mean': [0.5], 'deviation': [0.5]},
        'losses': {'importance': 0.005, 'load': 0.005},
    }
    config = read_config(plain, overrides)
    workload = config.make_workload()
    names = leaf_names({'params': workload.parameters})
    wanted = published_names(names, config.model.places)
    used = {part for parts in wanted.values() for part in parts}
    for name in sorted(arrays.keys() - used):
        allowed = 'absent: this V-MoE has no such parameter'
        raise ConfigError(name, list(arrays[name].shape), allowed)
    for name in sorted(used - arrays.keys() - {'cls', 'embedding/bias'}):
        allowed = 'there: the model by the other parameters has it'
        raise ConfigError(name, None, allowed)
    values = read_arrays(index, arrays)
    write_run(
        folder,
        config,
        lambda name, _: (
            made(name, wanted[name], values.get) if name in wanted else None
        ),
        every=True,
    )
    facts = {'from': str(path.resolve()), 'family': 'vmoe'}
    history.record(folder, history.STARTED, step=0, imported=facts)
    total, active = workload.count_parameters()
    print(
        f'vmoe: {len(arrays)} arrays, {total:,} parameters, '
        f'{active:,} active a token'
    )
    if left:
        print(f'left out: {left} arrays of a state of training')
    if config.model.moe_layers:
        moe = config.model.moe
        print(
            f'not in the file: config.model.moe.router.k = '
            f'{moe.experts_per_token} and config.model.moe.capacity, which are '
            'those of the published checkpoints'
        )
    return 0

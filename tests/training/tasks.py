"""A small run of two tasks."""

from configs import multitask
from tests import tiny


def plain_tasks(**changes):
    """Its plain config; changes are by dotted name."""
    return tiny.changed(
        multitask.get_config('mmoe,synthetic'),
        {
            'model.expert.widths': (6,),
            'model.towers.widths': (),
            'model.mixture.num_experts': 4,
            'data.source.num_features': 5,
            'data.source.num_rows': 32,
            'data.source.num_val_rows': 8,
            'data.batch_size': 16,
            **changes,
        },
    )


def tasks(accumulation=1, **changes):
    """Its config, workload, and a batch of 16 rows."""
    changes['optimizer.accumulation'] = accumulation
    config = tiny.check(plain_tasks(**changes))
    workload = config.make_workload()
    data = workload.load_data()
    batch = next(workload.train_batches(data, 0, 1))
    return config, workload, batch

"""`moe.checkpoints permute_experts DIR --workdir=NEW`: the experts reordered.

Which device has which experts follows from their order. The logits stay.
"""

import pathlib

import numpy as np
from absl import flags

from moe.checkpoints import surgery, transform
from moe.checkpoints.measured import measure
from moe.checkpoints.routers import drawn_logits, gates_of
from moe.config import ConfigError
from moe.layers import MoEConfig

OVERRIDES = True
FLAGS = flags.FlagValues()
transform.define(FLAGS)
flags.DEFINE_string(
    'order',
    'spread',
    "The experts in their new order, as '3,1,0,2'; 'load' for the busiest on "
    "a validation set first, 'spread' for loads that are even over --devices.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    'devices',
    8,
    "Devices of 'spread': each has as many experts, next to each other.",
    1,
    flag_values=FLAGS,
)


def run(workdir: pathlib.Path, overrides: transform.Overrides) -> int:
    """Writes a run whose experts have another order; returns 0.

    Args:
      workdir: folder of the run.
      overrides: fields of its config that the new run has otherwise; those of
        `data` also choose what is measured and evaluated.

    Raises:
      ConfigError: for what is no order of the experts.
      Damaged: if the checkpoint is damaged.
    """
    transform.new_folder(FLAGS.workdir)
    source = surgery.opened(workdir, FLAGS)
    model = source.config.model
    count, layers = model.moe.num_experts, model.moe_layers
    if FLAGS.order in ('load', 'spread'):
        devices = FLAGS.devices if FLAGS.order == 'spread' else 1
        if count % devices:
            allowed = f'a divisor of num_experts ({count})'
            raise ConfigError('--devices', devices, allowed)
        load = measure(source, transform.data_of(overrides)).load
        orders = [spread(one, devices) for one in load]
    else:
        orders = [_given(FLAGS.order, count)] * len(layers)
    exact = all(is_exact(model.moe, order) for order in orders)
    stay = 'stay' if exact else 'do not stay, by this router,'
    told = transform.Told(
        'permute_experts',
        {'order': FLAGS.order, 'devices': FLAGS.devices},
        [f'the logits {stay} as they are'],
        {'orders': [order.tolist() for order in orders], 'exact': exact},
    )
    operation = surgery.Selection(dict(zip(layers, orders, strict=True)))
    surgery.write(source, operation, {}, overrides, FLAGS, told)
    return 0


def _given(text: str, count: int) -> np.ndarray:
    parts = text.split(',')
    numbers = [int(part) for part in parts if part.strip().isdecimal()]
    if len(numbers) < len(parts) or sorted(numbers) != list(range(count)):
        allowed = f"'load', 'spread', or 0 to {count - 1} in any order"
        raise ConfigError('--order', text, allowed)
    return np.array(numbers)


def spread(load: np.ndarray, devices: int) -> np.ndarray:
    """Returns an order in which devices have about the same load.

    The busiest expert that is left goes to the device of least load that has
    room (greedy number partitioning). With one device it is the order of load.

    Args:
      load: tokens of each expert, [E].
      devices: number of devices, a divisor of E.
    """
    own: list[list[int]] = [[] for _ in range(devices)]
    room = len(load) // devices
    for expert in np.argsort(-load, kind='stable'):
        free = [device for device in own if len(device) < room]
        min(free, key=lambda device: load[device].sum()).append(int(expert))
    return np.array([expert for device in own for expert in device])


def is_exact(moe: MoEConfig, order: np.ndarray) -> bool:
    """Whether a router chooses the same experts in another order.

    One that knows groups of experts does not, if experts change theirs.

    Args:
      moe: config of the mixtures.
      order: the experts in their new order.
    """
    logits = drawn_logits(np.eye(len(order)))
    before, after = (
        gates_of(moe.router, x) for x in (logits, logits[:, order])
    )
    return np.allclose(after, before[:, order], rtol=1e-5, atol=1e-6)

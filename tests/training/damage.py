"""Checkpoints of a small state, and every kind of damage to their files."""

import contextlib
import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np

from moe.checkpoints.verify import find_damage
from moe.parallel import with_shardings
from moe.training.checkpoint import Checkpoints
from moe.training.divergence import init_guard
from moe.training.restore import Entry
from moe.training.step import TrainState

# Of a file's bytes: name to a function.
KINDS = {
    'emptied': lambda raw: b'',
    'cut in half': lambda raw: raw[: len(raw) // 2],
    'cut by a byte': lambda raw: raw[:-1],
    'longer by a byte': lambda raw: raw + b'\0',
    'zeroed': lambda raw: bytes(len(raw)),
    'garbage': lambda raw: np.random.default_rng(0).bytes(len(raw)),
    'deleted': lambda raw: None,
}


def flipped(raw, place):
    """A file with one flipped bit, at a place between 0 and 1."""
    bit = min(int(place * 8 * len(raw)), 8 * len(raw) - 1)
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def flips(count):
    """Kinds that flip one bit each, at as many places over the file."""
    return {
        f'bit {i} of {count} flipped': functools.partial(
            flipped, place=(i + 0.37) / count
        )
        for i in range(count)
    }


def state(step):
    """A state with all kinds of leaves: scalar, half, keys, none."""
    draw = np.random.default_rng(step)
    return TrainState(
        step=jnp.int32(step),
        params={
            'half': jnp.asarray(draw.standard_normal((5, 7)), jnp.bfloat16),
            'layers': [jnp.asarray(draw.standard_normal((64, 33)), 'float32')],
            'zeros': jnp.zeros((3, 4)),
        },
        opt_state=(None, {'count': jnp.uint8(step)}),
        model_state={'flags': draw.random(9) < 0.5},
        key=jax.random.key(step),
        guard=init_guard(),
    )


@functools.lru_cache
def like():
    """What a state restores as, on one device."""
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, state(0)))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return with_shardings(shapes, jax.tree.map(lambda _: device, shapes))


@contextlib.contextmanager
def opened(folder, keep=None, tell=lambda line: None):
    """The checkpoints of a folder."""
    with contextlib.closing(Checkpoints(folder, keep, tell)) as checkpoints:
        yield checkpoints


def save(folder, *steps):
    """Saves the states of some steps."""
    with opened(folder) as checkpoints:
        for step in steps:
            checkpoints.save(step, state(step), {'next_index': step})


def save_other(folder, step):
    """Saves the state of another model."""
    with opened(folder) as checkpoints:
        other = state(step)._replace(params={'zeros': jnp.ones(2)})
        checkpoints.save(step, other, {})


def resume(folder, wanted=None):
    """What a run resumes from, and the lines that are told."""
    told = []
    with opened(folder, tell=told.append) as checkpoints:
        found = checkpoints.resume(wanted or like())
    return found, told


def same(found, step):
    """Whether what was restored is the state of a step, bit for bit."""
    bits = lambda tree: [
        np.asarray(
            jax.random.key_data(x)
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
            else x
        ).tobytes()
        for x in jax.tree.leaves(tree)
    ]
    return (
        found.step == step
        and found.position == {'next_index': step}
        and bits(found.state) == bits(state(step))
    )


def files(folder):
    """Every file below a folder, by its name there."""
    found = (p for p in sorted(folder.rglob('*')) if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def copy(saved, folder):
    """A copy of a run's folder."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, folder, symlinks=True)
    return folder


def flip_a_value(checkpoint):
    """Flips a bit of a value that is needed, in one of the largest files."""
    entry = Entry(checkpoint, 0)
    assert find_damage(entry) is None
    files = (path for path in checkpoint.rglob('*') if path.is_file())
    for path in sorted(files, key=lambda path: -path.stat().st_size):
        raw = path.read_bytes()
        for place in (0.3, 0.5, 0.7):
            path.write_bytes(flipped(raw, place))
            if 'have its checksum' in str(find_damage(entry)):
                return
        path.write_bytes(raw)


def write(path, raw):
    """Writes a file; None deletes it."""
    if raw is None:
        path.unlink()
    else:
        path.write_bytes(raw)


def remove(folder):
    """Removes a folder with all that is in it."""
    shutil.rmtree(folder)

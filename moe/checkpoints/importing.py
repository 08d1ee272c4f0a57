"""`moe.checkpoints import DIR --workdir=RUN`: a published model as a run."""

import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from absl import flags
from jax.sharding import Mesh

from moe.checkpoints.hf.families import Family, family_of
from moe.checkpoints.hf.files import find_tensors
from moe.checkpoints.hf.quantized import Tensor, as_meant
from moe.checkpoints.hf.read import check_tensors, read_leaves
from moe.checkpoints.hf.runs import plain_config
from moe.checkpoints.hf.tensors import Published, published
from moe.checkpoints.hf.travel import TOKENIZER, keep
from moe.checkpoints.vmoe.files import find_index
from moe.checkpoints.vmoe.runs import import_run
from moe.config import ConfigError
from moe.parallel import make_mesh, parameter_shardings, with_shardings
from moe.paths import check_local, check_run_folder, read_json
from moe.progress import shown
from moe.training import history
from moe.training.checkpoint import Checkpoints
from moe.training.checksum import leaf_names
from moe.training.config import Config
from moe.training.folder import CONFIG, write_plain_config
from moe.training.lock import locked
from moe.training.loop import on_mesh
from moe.training.step import TrainState, init_state
from moe.workloads.lm.data.kept import keep_tokenizer
from moe.workloads.registry import plain_of, read_config

FLAGS = flags.FlagValues()
flags.DEFINE_string(
    'workdir', None, 'Folder of the run, which is new.', flag_values=FLAGS
)
flags.DEFINE_string(
    'dtype',
    'float32',
    'Dtype of the parameters in the run: float32 or bfloat16.',
    flag_values=FLAGS,
)
flags.DEFINE_list(
    'ignore',
    [],
    'Fields of config.json and tensors that may be left out, though they are '
    'not known.',
    flag_values=FLAGS,
)

DTYPES = ('float32', 'bfloat16')
_MODEL = ('params/', 'model_state/')
_BUFFERS = re.compile(r'.*\.rotary_emb\.inv_freq')


# It takes `--config.NAME=VALUE`, of the run that it makes.
OVERRIDES = True


class Opened(NamedTuple):
    """A published checkpoint whose tensors are not read yet.

    Attributes:
      config: its `config.json`.
      family: its family.
      model: the section `model` of a run.
      tensors: its tensors by name, in the order of the files.
    """

    config: dict[str, Any]
    family: Family
    model: dict[str, Any]
    tensors: dict[str, Tensor]


def open_published(folder: pathlib.Path, ignored: Sequence[str] = ()) -> Opened:
    """Reads the config of a published checkpoint, and its files' headers.

    Args:
      folder: its folder.
      ignored: fields of `config.json` that may be left out.

    Raises:
      ConfigError: for a config that cannot be honoured, or damaged files.
    """
    given = read_json(folder / CONFIG)
    try:
        family = family_of(given)
        model = family.read_config(given, ignored)
    except ConfigError as error:
        field = f'{folder / CONFIG}: {error.field}'
        raise ConfigError(field, error.value, error.allowed) from None
    stored = find_tensors(folder)
    place = lambda item: (item[1].path, item[1].offset)
    stored = dict(sorted(stored.items(), key=place))
    tensors = as_meant(stored, given.get('quantization_config'))
    return Opened(given, family, model, tensors)


def folder_of(given: pathlib.Path) -> pathlib.Path:
    """Returns the folder of what is imported.

    Args:
      given: the folder itself, or a file of a checkpoint of V-MoE.
    """
    index = None if given.is_dir() else find_index(given)
    return given if index is None else index.parent


def run(workdir: pathlib.Path, overrides: Sequence[tuple[str, Any]]) -> int:
    """Reads a published checkpoint into the folder of a new run; returns 0.

    Args:
      workdir: the folder with `config.json` and safetensors; or V-MoE's index,
        see `moe.checkpoints.vmoe`, or its folder.
      overrides: fields of the run's config by dotted name, such as those of
        the mesh that it is read onto.

    Raises:
      ConfigError: for files that are not whole, a model that is not known, or
        a field or tensor that cannot be honoured.
    """
    source = workdir
    if not (source / CONFIG).is_file():
        index = find_index(source)
        if index is not None:
            _check_vision()
            return import_run(index, FLAGS.workdir, overrides)
        allowed = (
            f'a folder with a {CONFIG} and safetensors, or with the .index of '
            'a V-MoE'
        )
        raise ConfigError('DIR', str(source), allowed)
    if not FLAGS.workdir:
        raise ConfigError('--workdir', FLAGS.workdir, 'given')
    workdir = pathlib.Path(FLAGS.workdir)
    check_local(workdir, '--workdir')
    if any((workdir / name).exists() for name in (CONFIG, 'checkpoints')):
        raise ConfigError('--workdir', FLAGS.workdir, 'a new folder')
    check_run_folder(workdir)
    if FLAGS.dtype not in DTYPES:
        raise ConfigError('--dtype', FLAGS.dtype, f'one of {", ".join(DTYPES)}')
    found = open_published(source, FLAGS.ignore)
    given, family, tensors = found.config, found.family, found.tensors
    model = {**found.model, 'param_dtype': FLAGS.dtype}
    text = source / TOKENIZER
    tokenizer = str(text) if text.is_file() else ''
    plain = plain_config(
        model,
        tokenizer,
        given.get('max_position_embeddings')
        or family.defaults['max_position_embeddings'],
        jax.device_count(),
    )
    config = read_config(plain, overrides)
    with locked(workdir):
        if config.average is not None:
            allowed = 'None: there is no average of parameters to read'
            raise ConfigError('config.average', config.average, allowed)
        mesh = make_mesh(config.mesh)
        with jax.set_mesh(mesh):
            state, lines = _read(on_mesh(config, mesh), mesh, found)
            keep(source, workdir, given, tensors)
            checkpoints = Checkpoints(workdir, config.keep_checkpoints)
            with shown('writing the checkpoint'):
                checkpoints.save(0, state, {'next_index': 0})
                checkpoints.close()
        keep_tokenizer(config.data.source, workdir)
        written = plain_of(config)
        if written['data']['source'].get('tokenizer') == tokenizer != '':
            own = str(workdir / TOKENIZER)
            written['data']['source']['tokenizer'] = own
        write_plain_config(workdir, written)
        facts = {'from': str(source.resolve()), 'family': family.name}
        history.record(workdir, history.STARTED, step=0, imported=facts)
    if not tokenizer:
        lines.append(f'there is no {TOKENIZER}: the run reads and writes ids')
    for line in lines:
        print(line)
    return 0


def _check_vision() -> None:
    """Refuses flags that V-MoE's checkpoints do not have."""
    if FLAGS.dtype != 'float32':
        raise ConfigError('--dtype', FLAGS.dtype, "'float32' for a V-MoE")
    if FLAGS.ignore:
        raise ConfigError('--ignore', FLAGS.ignore, 'absent for a V-MoE')


def _read(
    config: Config, mesh: Mesh, opened: Opened
) -> tuple[TrainState, list[str]]:
    """Returns the state of step 0, and lines about what was read."""
    family, tensors = opened.family, opened.tensors
    workload = config.make_workload()
    make = lambda: init_state(config, workload=workload)
    shapes = jax.eval_shape(make)
    shardings = parameter_shardings(
        mesh, shapes, workload.parameters, config.expert_axes
    )
    names = leaf_names(shapes)
    leaves = jax.tree.leaves(with_shardings(shapes, shardings))
    like = dict(zip(names, leaves, strict=True))
    own = {n: leaf for n, leaf in like.items() if n.startswith(_MODEL)}
    wanted = published(
        family.rows, config.model, {n: leaf.shape for n, leaf in own.items()}
    )
    left = check_tensors(wanted, tensors)
    lines = _left_out(left, tensors, wanted, config.model)
    order = {name: i for i, name in enumerate(tensors)}
    wanted.sort(key=lambda one: order[one.name])
    with shown('reading', len(wanted), 'tensors') as reached:
        found = read_leaves(wanted, tensors, own, reached)
    # The compiler leaves out what makes the model's own first parameters.
    rest = [n for n in names if n not in own]
    others = jax.jit(
        lambda: [
            leaf
            for name, leaf in zip(names, jax.tree.leaves(make()), strict=True)
            if name not in own
        ],
        out_shardings=[like[name].sharding for name in rest],
    )()
    found |= dict(zip(rest, others, strict=True))
    structure = jax.tree.structure(shapes)
    state = jax.tree.unflatten(structure, [found[name] for name in names])
    total, active = workload.count_parameters()
    first = (
        f'{family.name}: {len(wanted)} tensors, {total:,} parameters, '
        f'{active:,} active a token'
    )
    return state, [first, *lines]


def _left_out(
    left: Iterable[str],
    tensors: Mapping[str, Tensor],
    wanted: Sequence[Published],
    model: Any,
) -> list[str]:
    """Says which tensors are left out; refuses those that are not known."""
    found: dict[str, list[str]] = {}
    for name in sorted(left):
        layer = re.match(r'model\.layers\.(\d+)\.', name)
        if layer and int(layer[1]) >= model.num_layers:
            kind = 'of layers that predict further tokens'
        elif name == 'lm_head.weight' and model.tie_embeddings:
            kind = 'of a head that is the embedding'
        elif _BUFFERS.fullmatch(name):
            kind = 'of rotary frequencies, which are computed'
        elif 0 in tensors[name].shape:
            kind = 'without elements'
        elif name in FLAGS.ignore:
            kind = 'that --ignore names'
        else:
            allowed = (
                f'absent: a model of {len(wanted)} tensors by config.json has '
                f'no such tensor (--ignore={name} leaves it out)'
            )
            shape = list(tensors[name].shape)
            raise ConfigError(f'tensor {name}', shape, allowed)
        found.setdefault(kind, []).append(name)
    return [
        f'left out: {len(names)} tensors {kind}, {names[0]} the first'
        for kind, names in found.items()
    ]

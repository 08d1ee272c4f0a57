"""`moe.checkpoints upcycle DIR --workdir=NEW`: a mixture of a dense model.

Every layer that is dense in DIR and a mixture in NEW has experts made of its
feed-forward network: copies of it or of parts of it. D width, E experts, F
hidden units of the dense network, K experts a token.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from moe.capacity import Dropless
from moe.checkpoints import hidden, transform
from moe.checkpoints.leaves import Place, in_mixture, name_of, place_of
from moe.checkpoints.routers import check_tried, drawn_logits, gates_of
from moe.config import ConfigError, options, to_plain
from moe.models.transformer import TransformerConfig

OVERRIDES = True
FLAGS = flags.FlagValues()
transform.define(FLAGS)
flags.DEFINE_float(
    'noise',
    0.0,
    "Standard deviation of what is added to each expert's matrices, in units "
    'of that of the matrix.',
    0.0,
    flag_values=FLAGS,
)
flags.DEFINE_float(
    'redraw',
    0.0,
    "Share of each expert's hidden units that is drawn again, with mean and "
    'standard deviation of those replaced (drop-upcycling).',
    0.0,
    1.0,
    flag_values=FLAGS,
)
flags.DEFINE_float(
    'router_scale',
    1.0,
    "Factor of the router's first matrix; 0 for zeros.",
    0.0,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    'seed', 0, 'Seed of noise and of what is drawn again.', 0, flag_values=FLAGS
)


def _width(network: Any) -> int:
    """Returns the hidden width of a network; 0 if it has none."""
    return int(options(network).get('hidden') or 0)


class Split(NamedTuple):
    """How the hidden units of the dense network become experts.

    Attributes:
      shared: how many of them, the first ones, the shared network takes.
      whole: whether shared network and experts both have all of them; the
        outputs of both are halved then.
      parts: parts that the others are cut into, one an expert.
    """

    shared: int
    whole: bool
    parts: int


def run(workdir: pathlib.Path, overrides: transform.Overrides) -> int:
    """Writes a run whose mixtures are made of a dense run; returns 0.

    Args:
      workdir: folder of the dense run.
      overrides: fields of its config that the new run has otherwise.

    Raises:
      ConfigError: for a config that cannot be made of the other's networks.
      Damaged: if the checkpoint is damaged.
    """
    target = transform.new_folder(FLAGS.workdir)
    source = transform.Source(workdir, FLAGS.step, FLAGS.plugins)
    config = source.changed({}, overrides)
    upcycling = Upcycling(
        source,
        config.model,
        noise=FLAGS.noise,
        redraw=FLAGS.redraw,
        router_scale=FLAGS.router_scale,
        seed=FLAGS.seed,
    )
    given = {
        name: FLAGS[name].value
        for name in ('noise', 'redraw', 'router_scale', 'seed')
    }
    told = transform.Told(
        'upcycle', given, upcycling.lines(), upcycling.facts()
    )
    data = transform.data_of(overrides) if FLAGS.evaluate else None
    transform.write(source, target, config, upcycling.make, told, data)
    return 0


class Upcycling:
    """Makes the leaves of a model with mixtures of those of a dense one.

    E experts are E/g copies of the dense network, each cut into g parts along
    the hidden units: experts c*g to c*g + g - 1 are the parts of copy c, and
    have one column of the router, so that a token takes all parts of a copy or
    none (virtual groups). What the experts return is scaled by g over the sum
    of a token's gates, so that the first outputs are those of the dense model
    if that sum is the same for all tokens, and whole copies are taken.
    Sources: arXiv 2212.05055 (copies), 2410.07524 (virtual groups; it spreads
    the factor over all matrices of an expert, here W_down has it).

    Args:
      source: the checkpoint of the dense run.
      model: config of the model to make.
      noise: see the flags of the command, as the others.
      redraw: share of the hidden units.
      router_scale: factor of the router's first matrix.
      seed: seed of the draws.
    """

    def __init__(
        self,
        source: transform.Source,
        model: TransformerConfig,
        *,
        noise: float = 0.0,
        redraw: float = 0.0,
        router_scale: float = 1.0,
        seed: int = 0,
    ):
        self._source, self._model = source, model
        self._old: TransformerConfig = source.config.model
        self._noise, self._redraw = noise, redraw
        self._router_scale, self._seed = router_scale, seed
        self._check()
        self.split = self._cut()
        self.scale, self.exact = self._factor()

    @property
    def layers(self) -> list[int]:
        """Returns the layers that become mixtures."""
        return sorted({*self._model.moe_layers} - {*self._old.moe_layers})

    def _check(self):
        old, new = self._old, self._model
        if new.num_layers != old.num_layers:
            allowed = f'{old.num_layers}, as in the run'
            field = 'config.model.num_layers'
            raise ConfigError(field, new.num_layers, allowed)
        if not self.layers:
            allowed = 'layers that are dense in the run (moe_every, for one)'
            raise ConfigError('config.model.moe_layers', [], allowed)
        check_tried(new.moe)
        plain = to_plain(type(new), new)['moe']
        self._check_options('experts', plain['experts'])
        if new.moe.shared:
            hidden.check_known(new.moe.experts, 'config.model.moe.experts')
            self._check_options('shared.network', plain['shared']['network'])
            if new.moe.shared.gate != 'none':
                allowed = "'none', in a model that is upcycled"
                raise ConfigError(
                    'config.model.moe.shared.gate', new.moe.shared.gate, allowed
                )

    def _check_options(self, field: str, network: Mapping[str, Any]):
        """Refuses networks that differ by more than their hidden widths."""
        old = to_plain(type(self._old), self._old)['dense']
        for name in ('name', *old, *network):
            if name != 'hidden' and old.get(name) != network.get(name):
                allowed = f'{old.get(name)!r}, as in the dense networks'
                raise ConfigError(
                    f'config.model.moe.{field}.{name}',
                    network.get(name),
                    allowed,
                )

    def _cut(self) -> Split:
        """Returns how the hidden units become experts."""
        moe, total = self._model.moe, _width(self._old.dense)
        width = _width(moe.experts)
        if width == total and not moe.shared:
            return Split(0, False, 1)
        field = 'config.model.moe.experts'
        hidden.check_known(moe.experts, field)
        shared = _width(moe.shared.network) if moe.shared else 0
        if width > total or shared > total:
            name = 'experts' if width > total else 'shared.network'
            allowed = f'at most the {total} of the dense networks'
            raise ConfigError(
                f'config.model.moe.{name}.hidden', max(width, shared), allowed
            )
        whole = shared == total
        rest = total if whole else total - shared
        if rest % width:
            allowed = f'a divisor of the {rest} hidden units that it is made of'
            raise ConfigError(f'{field}.hidden', width, allowed)
        parts = rest // width
        if moe.num_experts % parts:
            allowed = f'a multiple of the {parts} parts of a dense network'
            raise ConfigError(
                'config.model.moe.num_experts', moe.num_experts, allowed
            )
        return Split(0 if whole else shared, whole, parts)

    def _factor(self) -> tuple[float, bool]:
        """Returns the factor of W_down, and whether outputs are the same."""
        moe, parts = self._model.moe, self.split.parts
        free = sum(vars(moe.zero_computation).values())
        shape = (self._model.d_model, moe.num_experts + free)
        draw = np.random.default_rng(1)
        kernel = draw.standard_normal(shape, np.float32) / shape[0] ** 0.5
        kernel = self._router(kernel)
        gates = gates_of(moe.router, drawn_logits(kernel))
        sums = gates.sum(axis=1)
        if not sums.mean() > 0:
            return 1.0, False
        copies = gates[:, : moe.num_experts].reshape(len(gates), -1, parts)
        same = lambda x, y: np.allclose(x, y, rtol=1e-5, atol=1e-6)
        exact = same(sums, sums.mean()) and same(copies, copies[..., :1])
        limit = isinstance(moe.capacity, Dropless) or not moe.capacity.eval
        exact = exact and limit and not free
        return float(parts / sums.mean()), bool(
            exact and not (self._noise or self._redraw)
        )

    def lines(self) -> list[str]:
        """Returns what is printed."""
        moe, parts = self._model.moe, self.split.parts
        layers = ', '.join(map(str, self.layers))
        cut = f', each cut into {parts} parts' if parts > 1 else ''
        more = ''
        if moe.shared:
            more = '; the shared network has ' + (
                'all hidden units, and half of the output'
                if self.split.whole
                else f'the first {self.split.shared} hidden units'
            )
        promise = (
            'the first outputs are those of the dense model'
            if self.exact
            else 'the first outputs are not those of the dense model'
        )
        return [
            f'layers {layers}: {moe.num_experts} experts are '
            f'{moe.num_experts // parts} copies of the dense network{cut}'
            f'{more}; outputs of experts are scaled by {self.scale:.4g}: '
            f'{promise}'
        ]

    def facts(self) -> Mapping[str, Any]:
        """Returns what the history keeps."""
        return {
            'layers': self.layers,
            'parts': self.split.parts,
            'scale': self.scale,
            'exact': self.exact,
        }

    def make(self, name: str, first: jax.Array) -> np.ndarray | None:
        """Returns the values of a leaf of the new model.

        Args:
          name: its name.
          first: its first values, of which a router's are taken.

        Raises:
          ConfigError: for one that is not in the dense run.
        """
        place = place_of(self._model, name)
        if place is None:
            return self._copied(name, name, first.shape)
        fresh = None
        found = []
        for i, layer in enumerate(place.layers):
            part = self._made(place, layer, name, first.shape[1:])
            if part is None:
                fresh = np.asarray(first) if fresh is None else fresh
                part = fresh[i]
                if in_mixture(place.rest) == 'router':
                    part = self._router(part)
            found.append(part)
        return np.stack(found)

    def _made(
        self, place: Place, layer: int, name: str, shape: tuple[int, ...]
    ) -> np.ndarray | None:
        """Returns the part of a layer, None for its first values."""
        inside = in_mixture(place.rest)
        if inside is None or layer not in self.layers:
            old, at = name_of(self._old, place.begin, layer, place.rest)
            return self._copied(name, old, shape, at)
        where, _, parameter = inside.partition('/')
        if where not in ('experts', 'shared'):
            return None
        rest = f'mlp/{parameter.removeprefix("expert/")}'
        old, at = name_of(self._old, place.begin, layer, rest)
        dense = self._copied(name, old, None, at)
        if where == 'shared':
            return self._shared(parameter, dense)
        return np.stack(
            [
                self._expert(parameter, dense, layer, e)
                for e in range(self._model.moe.num_experts)
            ]
        )

    def _copied(
        self,
        name: str,
        old: str,
        shape: tuple[int, ...] | None,
        at: int | None = None,
    ) -> np.ndarray:
        """Returns a leaf of the dense run, or a part of one."""
        leaf = self._source.leaves.get(old)
        own = leaf and (leaf.shape if at is None else leaf.shape[1:])
        if leaf is None or (shape is not None and own != shape):
            there = 'absent' if leaf is None else f'{list(leaf.shape)}'
            allowed = f'as in the dense run, where {old} is {there}'
            raise ConfigError(name, list(shape or ()), allowed)
        values = self._source.read(old)
        return values if at is None else values[at]

    def _shared(self, name: str, dense: np.ndarray) -> np.ndarray:
        """Returns a parameter of the shared network, which has the bias."""
        if self.split.whole:
            return dense / 2 if name == 'down' else dense
        return hidden.take(name, dense, slice(self.split.shared))

    def _expert(
        self, name: str, dense: np.ndarray, layer: int, e: int
    ) -> np.ndarray:
        """Returns a parameter of an expert."""
        shared, whole, parts = self.split
        total = _width(self._old.dense)
        width = (total - shared) // parts
        start = shared + width * (e % parts)
        array = hidden.take(name, dense, slice(start, start + width))
        if self._redraw:
            hidden.check_known(
                self._model.moe.experts, 'config.model.moe.experts'
            )
            units = np.random.default_rng([self._seed, layer, e])
            count = round(self._redraw * width)
            index = units.choice(width, count, replace=False)
            draw = self._draw(name, layer, e)
            array = hidden.redraw(name, array, index, draw)
        if self._noise and array.ndim > 1:
            noise = self._draw(name, layer, e, 1).standard_normal(array.shape)
            array = array + self._noise * array.std() * noise
        if name == 'down':
            array = array * (self.scale / 2 if whole else self.scale)
        elif name == 'down_bias':
            array = array * (0.0 if shared or whole else self.scale / parts)
        elif self.scale != 1 and name not in hidden.AXES:
            hidden.check_known(
                self._model.moe.experts, 'config.model.moe.experts'
            )
        return array

    def _draw(self, name: str, layer: int, *more: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, layer, *more, *name.encode()])

    def _router(self, kernel: np.ndarray) -> np.ndarray:
        """Returns the router's matrix, one column for all parts of a copy."""
        count, parts = self._model.moe.num_experts, self.split.parts
        columns = np.repeat(kernel[:, :count:parts], parts, axis=1)
        own = np.concatenate([columns, kernel[:, count:]], axis=1)
        return own * np.float32(self._router_scale)

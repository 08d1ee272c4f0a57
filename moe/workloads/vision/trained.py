"""A trained vision transformer, opened by `moe.load`.

B images, H rows and W columns of pixels, C channels, S patches, E experts.
"""

import functools
from collections.abc import Iterator, Sequence
from itertools import compress
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float
from scipy.special import softmax

from moe.config import ConfigError
from moe.training.folder import check_same_data
from moe.workloads.trained import LayerRouting, TrainedRun, by_layer
from moe.workloads.vision import inputs as predicted
from moe.workloads.vision.inputs import Inputs, LeftOut, Preparation
from moe.workloads.vision.model import ViT
from moe.workloads.vision.workload import VisionConfig

Images = Float[np.ndarray, 'B H W C']


class VisionRun(TrainedRun):
    """A trained vision transformer; see `TrainedRun`."""

    config: VisionConfig
    model: ViT

    def __init__(self, config, workdir, step=None):
        super().__init__(config, workdir, step)
        self.model = ViT(config.model)

    def logits(self, inputs: Images) -> Float[np.ndarray, 'B classes']:
        """Predicts the class of each image.

        Args:
          inputs: pixels, standardised as the training images were.

        Returns:
          Logits in float32.
        """
        return self._logits(inputs, None)

    def _logits(self, inputs, mask) -> Float[np.ndarray, 'B classes']:
        out = _apply(self.model, self.variables, inputs, mask, record=False)
        return np.asarray(out[0])

    @functools.cached_property
    def preparation(self) -> Preparation:
        """Returns how the run's images were prepared.

        Of a run made before it was kept the data are read again.

        Raises:
          ConfigError: if neither can be used, or the data are others now.
        """
        if (self.workdir / predicted.FILE).exists():
            return Preparation.read(self.workdir)
        data = self.workload.load_data()
        check_same_data(self.workdir, self.workload.describe_data(data))
        return Preparation.of(data)

    def read_inputs(
        self,
        files: str,
        *,
        columns: Sequence[str] = (),
        on_error: Literal['raise', 'skip'] = 'raise',
    ) -> tuple[Inputs, LeftOut]:
        """Finds images; see `TrainedRun.read_inputs`."""
        if columns:
            allowed = 'absent: it is for a run on a table'
            raise ConfigError('columns', list(columns), allowed)
        model = self.config.model
        shape = (model.image_size, model.image_size, model.channels)
        paths = predicted.list_inputs(files, 'files')
        found = Inputs(paths, shape, self.preparation)
        return found, LeftOut(on_error == 'skip')

    def predict_batches(
        self, inputs: Inputs, left_out: LeftOut, *, top: int | None = None
    ) -> Iterator[dict[str, list[Any]]]:
        """Returns columns of predictions; see `TrainedRun.predict_batches`.

        They are `row`, `file`, the likeliest class as `class`, and with `top`
        its `probability`, then `class_2`, `probability_2` and so on; without,
        the probability of every class as `class:NAME`.
        """
        model, size = self.config.model, self.config.data.batch_size
        names = inputs.preparation.names(model.num_classes)
        if top is not None and not 1 <= top <= len(names):
            allowed = f'1 to the number of classes ({len(names)})'
            raise ConfigError('top', top, allowed)
        is_empty = True
        for rows in inputs.batches(size, left_out):
            count = len(rows.images)
            whole = np.zeros((size, *inputs.shape), np.float32)
            whole[:count] = rows.images
            logits = self._logits(whole, np.arange(size) < count)[:count]
            finite = np.isfinite(logits).all(axis=-1)
            for i in np.flatnonzero(~finite):
                allowed = 'one whose predictions are finite'
                left_out.leave_out(rows.file[i], allowed)
            if not finite.any():
                continue
            is_empty = False
            columns: dict[str, list[Any]] = {
                'row': [*compress(rows.row, finite)],
                'file': [*compress(rows.file, finite)],
            }
            yield columns | _predictions(logits[finite], names, top)
        if is_empty:
            allowed = f'an image that can be used ({left_out.count} left out)'
            raise ConfigError('input', inputs.paths[0], allowed)

    def routing(self, inputs: Images) -> list[LayerRouting]:
        """Finds which experts each patch goes to, layer by layer.

        Args:
          inputs: pixels, see `logits`.

        Returns:
          One entry a mixture layer, its arrays [B, S, E]; none for soft
          mixtures, which assign no patch.
        """
        _, aux = _apply(self.model, self.variables, inputs, None, record=True)
        shape = (len(inputs), self.config.model.num_tokens)
        layers = self.config.model.moe_layers
        return by_layer(aux and aux.routing, layers, shape)


def _predictions(
    logits: Float[np.ndarray, 'B classes'],
    names: Sequence[str],
    top: int | None,
) -> dict[str, list[Any]]:
    """Returns the columns of the classes and their probabilities."""
    shares = softmax(logits.astype(float), axis=-1)
    order = np.argsort(-logits, axis=-1, kind='stable')[:, : top or 1]
    columns: dict[str, list[Any]] = {}
    for place, classes in enumerate(order.T, start=1):
        end = f'_{place}' if place > 1 else ''
        columns[f'class{end}'] = [names[c] for c in classes]
        if top is not None:
            own = np.take_along_axis(shares, classes[:, None], axis=-1)
            columns[f'probability{end}'] = own[:, 0].tolist()
    if top is None:
        for c, name in enumerate(names):
            columns[f'class:{name}'] = shares[:, c].tolist()
    return columns


@functools.partial(jax.jit, static_argnames=('model', 'record'))
def _apply(model: ViT, variables: Any, images: Any, mask: Any, record: bool):
    return model.apply(variables, images, mask=mask, record=record)

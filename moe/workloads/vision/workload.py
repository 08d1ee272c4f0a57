"""The workload of image classification.

B images a batch, H rows and W columns of pixels, C channels.
"""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from moe import files
from moe.config import ConfigError, NaturalFloat, Within
from moe.parallel import replicated
from moe.training.eval_metrics import in_top_k
from moe.training.evaluation import EvalBatch, evaluate, rows_of
from moe.training.workload import (
    Outputs,
    Predictions,
    masked_means,
    state_of,
)
from moe.workloads.transformer import TransformerRun, TransformerWorkload
from moe.workloads.vision import baselines, capacity_curve
from moe.workloads.vision.capacity_curve import CapacityCurve
from moe.workloads.vision.confusion import Confusion
from moe.workloads.vision.data import images
from moe.workloads.vision.data.encoded import Streamed
from moe.workloads.vision.data.images import ImageConfig, Images, load_images
from moe.workloads.vision.inputs import FILE as PREPARATION
from moe.workloads.vision.inputs import Preparation
from moe.workloads.vision.model import ViT, ViTConfig
from moe.workloads.vision.objective import cross_entropies

_TOP = 5  # classes of the second accuracy, where there are more


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig(TransformerRun):
    """The config of a run of the vision transformer.

    Attributes:
      model: the model.
      data: the images, and their augmentation.
      losses: auxiliary losses and their coefficients.
      label_smoothing: share of the training loss that is the mean over all
        classes.
      capacity_curve: evaluations at the end, of accuracy against capacity, with
        and without batch priority; None for none.
    """

    model: ViTConfig = field(default_factory=ViTConfig)
    data: ImageConfig = field(default_factory=ImageConfig)
    losses: Mapping[str, NaturalFloat] = field(
        default_factory=lambda: {'load_balance': 0.01, 'router_z': 0.001}
    )
    label_smoothing: Annotated[float, Within(0.0, 0.99)] = 0.0
    capacity_curve: CapacityCurve | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.capacity_curve:
            list(capacity_curve.points(self, (1.0,)))  # or it is refused

    def prepared_as(self, workdir: pathlib.Path) -> 'VisionConfig':
        """Returns the config with pixels standardised as in a run."""
        if self.data.mean or not (workdir / PREPARATION).exists():
            return self
        standard = Preparation.read(workdir).standard
        numbers = (standard.mean.tolist(), standard.deviation.tolist())
        mean, deviation = map(tuple, numbers)
        data = dataclasses.replace(self.data, mean=mean, deviation=deviation)
        return dataclasses.replace(self, data=data)

    def make_workload(self) -> 'Vision':
        """Returns the workload that this describes."""
        return Vision(self)

    @property
    def tokens_per_example(self) -> int:
        """Returns the number of patches of an image, and its class token."""
        return self.model.num_tokens


class Vision(TransformerWorkload):
    """Images, and the class of each.

    Batches are dictionaries of float32 'image' [B, H, W, C] and int32 'label'
    [B]; of mixed images also int32 'other' and float32 'weight' [B], those of
    validation of bool 'mask' [B]. Accuracy counts 'label' alone.
    """

    primary_metrics = ('accuracy',)
    higher_is_better = frozenset({'accuracy', f'top_{_TOP}_accuracy'})
    final_file = 'confusion.json'
    _config: VisionConfig

    def __init__(self, config: VisionConfig):
        super().__init__(config)
        self._model: Any = ViT(config.model)

    def init(self, key):
        """Returns the model's variables before the first step."""
        m = self._config.model
        shape = (1, m.image_size, m.image_size, m.channels)
        return dict(self._model.init(key, jnp.zeros(shape)))

    def forward(self, variables, batch, **options):
        """Applies the model; the loss is in nats, over the valid images."""
        mask, labels = batch.get('mask'), batch['label']
        logits, aux = self._model.apply(
            variables, batch['image'], mask=mask, **options
        )
        training = options.get('train')
        smoothing = self._config.label_smoothing if training else 0.0
        losses = cross_entropies(logits, batch, smoothing)
        right = jnp.argmax(logits, axis=-1) == labels
        means = masked_means(mask, loss=losses, accuracy=right)
        if mask is None:
            mask = jnp.ones(labels.shape, bool)
        predictions = Predictions(logits, labels, mask)
        if not training and logits.shape[-1] > _TOP:
            found = in_top_k(predictions, k=_TOP)
            means |= masked_means(mask, **{f'top_{_TOP}_accuracy': found})
        return Outputs(means, aux, state_of(variables), {'': predictions})

    def representations(
        self,
        variables: Any,
        images: Float[Array, 'B H W C'],
        mask: Bool[Array, 'B'],
    ) -> Float[Array, 'B D']:
        """Returns what the head reads of each image, as in evaluation.

        Args:
          variables: variables of the model.
          images: standardised pixels.
          mask: True for valid images.
        """
        return self._model.apply(variables, images, mask=mask, head=False)[0]

    def eval_rows(self, outputs, batch):
        """Returns the true and the predicted class of each image."""
        logits, labels, mask = outputs.predictions['']
        guess = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return {'label': labels, 'guess': guess, 'mask': mask}

    def eval_details(self, rows):
        """Returns the accuracy of every class, and the most confused pairs."""
        return {'classes': self._confusion(rows).described()}

    def _confusion(self, rows) -> Confusion:
        valid = rows['mask']
        label, guess = rows['label'][valid], rows['guess'][valid]
        return Confusion.of(label, guess, self._config.model.num_classes)

    def load_data(self):
        """Reads the images and checks that they fit the model."""
        data, model = self.load_images(), self._config.model
        if data.num_classes > model.num_classes:
            allowed = f"at least the images' {data.num_classes}"
            raise ConfigError(
                'config.model.num_classes', model.num_classes, allowed
            )
        return data

    def load_images(self) -> Images:
        """Reads images, of whatever classes, and checks their size."""
        model = self._config.model
        data = load_images(self._config.data, model.image_size, model.channels)
        size = (model.image_size, model.image_size, model.channels)
        if data.train_x.shape[1:] != size:
            rows, columns, channels = data.train_x.shape[1:]
            raise ConfigError(
                'config.model.image_size and channels',
                (model.image_size, model.channels),
                f"the images' ({rows} x {columns} pixels, {channels} channels)",
            )
        return data

    def example_bytes(self):
        """Returns those of the image."""
        model = self._config.model
        pixels = model.image_size**2 * model.channels  # uint8
        return {**super().example_bytes(), 'batch': pixels}

    def describe_data(self, data: Images):
        """Returns sizes and the fingerprint of the images."""
        return {
            'train_images': len(data.train_x),
            'val_images': len(data.val_x),
            'classes': data.num_classes,
            'fingerprint': data.fingerprint,
        }

    def save_assets(self, data: Images, workdir: pathlib.Path):
        """Writes how images were prepared, for those that are predicted."""
        Preparation.of(data).write(workdir)

    def notes(self, data: Images):
        """Tells how many validation images are among those to train on."""
        if isinstance(data.train_x, Streamed):
            return []  # which would read them all
        known = {hash(image.tobytes()) for image in data.train_x}
        count = sum(hash(image.tobytes()) in known for image in data.val_x)
        if not count:
            return []
        every = len(data.val_x)
        return [f'{count} of {every} validation images are trained on too']

    def train_batches(self, data: Images, host, num_hosts):
        """Returns the batches of `moe.workloads.vision.data.images`."""
        config = self._config
        return images.train_batches(
            data, config.data, config.seed, host, num_hosts
        )

    def eval_batches(self, data: Images, host, num_hosts):
        """Yields the whole validation set once."""
        return images.val_batches(data, self._config.data, host, num_hosts)

    def finalize(self, variables, data: Images, workdir: pathlib.Path):
        """Writes the confusion matrix of the validation images.

        Before it the accuracy against capacity, if the config asks for it, and
        the baselines.
        """
        curve, main = self._config.capacity_curve, jax.process_index() == 0
        if curve:
            found = capacity_curve.measure(
                self._config,
                curve.factors,
                lambda workload: workload.evaluated(
                    variables, data, curve.max_batches
                ),
            )
            if main:
                text = json.dumps(found, indent=2) + '\n'
                files.write_text(workdir / capacity_curve.FILE, text)
        rows = rows_of(self.evaluated(variables, data))
        if main:
            baselines.write(baselines.baselines(data), workdir)
            self._confusion(rows).write(workdir / self.final_file)
        return {}

    def evaluated(
        self, variables: Any, data: Images, max_batches: int | None = None
    ) -> list[EvalBatch]:
        """Returns results on the validation images; all hosts call it.

        Args:
          variables: variables of the model.
          data: the data of `load_data`.
          max_batches: the most batches; None for all.
        """
        eval_step = jax.jit(
            lambda *given: replicated(evaluate(self, (), *given))
        )
        batches = images.val_batches(data, self._config.data)
        return [
            jax.device_get(eval_step(variables, batch))
            for batch in itertools.islice(batches, max_batches)
        ]

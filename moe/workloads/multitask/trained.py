"""A trained multi-task model, opened by `moe.load`.

B examples, T tasks, O outputs a task, E experts.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import compress
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float, Shaped

from moe.config import ConfigError
from moe.workloads.multitask.data import rows
from moe.workloads.multitask.data.delimited import Problems
from moe.workloads.multitask.data.tables import (
    TableSource,
    apply_table,
    read_preprocessing,
)
from moe.workloads.multitask.model import MultiTask, gate_metrics
from moe.workloads.multitask.workload import MultiTaskRun
from moe.workloads.trained import LayerRouting, TrainedRun, as_gates

Batch = Mapping[str, Shaped[np.ndarray, 'B ...']]


class TrainedMultiTaskRun(TrainedRun):
    """A trained multi-task model; see `TrainedRun`."""

    config: MultiTaskRun
    model: MultiTask
    workload: Any

    def __init__(self, config, workdir, step=None):
        super().__init__(config, workdir, step)
        self.model = self.workload.model

        def gates(variables, row):
            batch = {name: value[None] for name, value in row.items()}
            _, aux = self.model.apply(variables, batch)
            stats: Mapping[str, Any] = aux.stats  # type: ignore[union-attr]
            return {n: v for n, v in stats.items() if _statistic(n) == 'gate'}

        self._apply = jax.jit(self.model.apply)
        self._gates = jax.jit(jax.vmap(gates, (None, 0)))

    def logits(self, inputs: Batch) -> Float[np.ndarray, 'B T O']:
        """Predicts for a batch of examples.

        Args:
          inputs: rows as `read_inputs` returns them: 'numeric' float32 [B, F],
            and for a table with categories 'categorical' int32 [B, C].

        Returns:
          Logits and predicted numbers, float32.
        """
        return np.asarray(self._apply(self.variables, _inputs(inputs))[0])

    def routing(self, inputs: Batch) -> list[LayerRouting]:
        """Finds how much each gate uses each expert for each example.

        Args:
          inputs: rows, see `logits`.

        Returns:
          One entry a gate, its arrays [B, E], by the name of the gate in the
          metrics, such as the task's.
        """
        # The mean gate of a batch of one is the example's own.
        stats = jax.device_get(self._gates(self.variables, _inputs(inputs)))
        names = [target.name for target in self.workload.targets]
        examples = [
            gate_metrics({n: v[i] for n, v in stats.items()}, names)
            for i in range(len(inputs['numeric']))
        ]
        places = {name: name.split('/')[1] for name in examples[0]}
        return as_gates(
            {
                place: np.array([one[name] for one in examples], np.float32)
                for name, place in places.items()
            }
        )

    def read_inputs(
        self,
        files: str,
        *,
        columns: Sequence[str] = (),
        on_error: Literal['raise', 'skip'] = 'raise',
    ) -> tuple[Mapping[str, np.ndarray], Problems]:
        """Reads tables; see `TrainedRun.read_inputs`."""
        if not isinstance(self.config.data.source, TableSource):
            raise self._other_workload('a run on a table or on images')
        table, left_out = apply_table(
            read_preprocessing(self.workdir),
            files,
            columns=columns,
            on_error=on_error,
        )
        if not rows.num_rows(table):
            count = left_out.count
            allowed = f'files with a row that can be used ({count} left out)'
            raise ConfigError('files', files, allowed)
        return table, left_out

    def predict_batches(
        self,
        inputs: Mapping[str, np.ndarray],
        left_out: Problems,
        *,
        top: int | None = None,
    ) -> Iterator[dict[str, list[Any]]]:
        """Returns columns of predictions; see `TrainedRun.predict_batches`."""
        if top is not None:
            raise ConfigError('top', top, 'absent: it is for a run on images')
        variables, size = self.variables, self.config.data.batch_size

        def predict(batch):
            logits = np.asarray(self._apply(variables, _inputs(batch))[0])
            batch = {n: v[batch['valid']] for n, v in batch.items()}
            columns = self.workload.predictions(logits[: len(batch['row'])])
            kept = _finite(columns, batch, left_out)
            columns = {'row': batch['row'].tolist(), **columns}
            return {n: [*compress(v, kept)] for n, v in columns.items()}

        return map(predict, rows.val_batches(inputs, size))


def _finite(
    columns: Mapping[str, list], batch: Batch, left_out: Problems
) -> list[bool]:
    """Returns which rows have finite predictions alone; reports the others."""
    kept = np.ones(len(batch['row']), bool)
    for values in columns.values():
        if isinstance(values[0], float):
            kept &= np.isfinite(values)
    for i in np.flatnonzero(~kept):
        place = left_out.files[batch['file'][i]], int(batch['line'][i])
        left_out.leave_out(*place)
        allowed = 'a row whose predictions are finite'
        left_out.report('{}:{}'.format(*place), '', allowed)
    return kept.tolist()


def _inputs(batch: Batch) -> dict[str, Any]:
    """Returns the inputs of the model in a batch."""
    names = ('numeric', 'categorical', 'valid')
    return {name: batch[name] for name in names if name in batch}


def _statistic(name: str) -> str:
    return name.rpartition('/')[2]

"""Runs of several tasks on synthetic data and on tables."""

import dataclasses
import pathlib

from moe.config import ConfigError
from moe.workloads.multitask.data import rows, synthetic
from moe.workloads.multitask.data.preprocessing import Preprocessing
from moe.workloads.multitask.data.synthetic import (
    Synthetic,
    SyntheticConfig,
    load_synthetic,
)
from moe.workloads.multitask.data.tables import Table, TableConfig, load_table
from moe.workloads.multitask.targets import KINDS, Regression
from moe.workloads.multitask.workload import MultiTask, MultiTaskRun


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticRun(MultiTaskRun):
    """A run on synthetic tasks."""

    data: SyntheticConfig

    def __post_init__(self):
        super().__post_init__()
        self.check_targets(self.data.num_tasks)

    def make_task(self) -> 'SyntheticTask':
        """The task that this describes."""
        return SyntheticTask(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableRun(MultiTaskRun):
    """A run on a table."""

    data: TableConfig

    def __post_init__(self):
        super().__post_init__()
        self.check_targets(len(self.data.schema.labels))

    def make_task(self) -> 'TableTask':
        """The task that this describes; `load` or `restored` completes it."""
        return TableTask(self)


class SyntheticTask(MultiTask):
    """Regressions on synthetic data."""

    _config: SyntheticRun

    def __init__(self, config: SyntheticRun):
        super().__init__(config)
        names = [f'task_{i}' for i in range(config.data.num_tasks)]
        targets = tuple(Regression(name) for name in names)
        self.build(targets, num_numeric=config.data.num_features)

    def load(self):
        """Draws the data."""
        return load_synthetic(self._config.data)

    def describe(self, data: Synthetic):
        """Returns the fingerprint of the data."""
        return {'fingerprint': data.fingerprint}

    def announce(self, data: Synthetic):
        """Returns the sizes in words."""
        config = self._config.data
        size = f'{config.num_rows:,}' if config.num_rows else 'fresh'
        return (
            f'{size} rows to train on, {config.num_val_rows:,} to validate on'
        )

    def train_batches(self, data: Synthetic, host, num_hosts):
        """Returns the endless iterator of `.data.synthetic`."""
        return synthetic.train_batches(data, self._config.seed, host, num_hosts)


class TableTask(MultiTask):
    """The labels of a table.

    Attributes:
      preprocessing: what was learned of the training rows, from `load` or
        `restored` on.
    """

    preprocessing: Preprocessing
    _config: TableRun

    def load(self):
        """Reads the table, and makes the model that fits its categories."""
        data = load_table(self._config.data)
        self.learn(data.preprocessing)
        return data

    def learn(self, learned: Preprocessing) -> None:
        """Makes the model that fits what was learned of a table."""
        self.preprocessing = learned
        targets = tuple(
            KINDS[label.kind](label.name, learned.classes.get(label.name, ()))
            for label in learned.schema.labels
        )
        self.build(
            targets,
            num_numeric=learned.num_numeric,
            tables=learned.table_sizes,
            table_of=learned.schema.table_of,
        )

    def keep(self, data: Table, workdir: pathlib.Path):
        """Writes what was learned of the training rows."""
        text = data.preprocessing.to_json()
        (workdir / 'preprocessing.json').write_text(text)

    def restored(self, workdir: pathlib.Path):
        """Returns the task with what was learned in a run."""
        path = workdir / 'preprocessing.json'
        if not path.exists():
            allowed = 'the folder of a run on a table that has begun'
            raise ConfigError('workdir', str(workdir), allowed)
        self.learn(Preprocessing.from_json(path.read_text()))
        return self

    def describe(self, data: Table):
        """Returns sizes and the fingerprint of the table."""
        return {
            'train_rows': rows.num_rows(data.train),
            'val_rows': rows.num_rows(data.val),
            'test_rows': rows.num_rows(data.test),
            'fingerprint': data.fingerprint,
        }

    def announce(self, data: Table):
        """Returns the sizes in words."""
        skipped = f', {data.skipped:,} left out' if data.skipped else ''
        return (
            f'{rows.num_rows(data.train):,} rows to train on, '
            f'{rows.num_rows(data.val):,} to validate on, '
            f'{rows.num_rows(data.test):,} to test on{skipped}'
        )

    def train_batches(self, data: Table, host, num_hosts):
        """Returns the endless iterator of `.data.rows`."""
        config = self._config
        return rows.train_batches(
            data.train, config.data.batch_size, config.seed, host, num_hosts
        )

    def test_batches(self, data: Table, host, num_hosts):
        """Yields the rows of the final test once."""
        size = self._config.data.batch_size
        return rows.val_batches(data.test, size, host, num_hosts)

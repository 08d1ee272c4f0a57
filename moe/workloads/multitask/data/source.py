"""Where the rows of several tasks come from, and what is asked of them.

N rows, F numeric inputs, C categorical columns, T tasks, B rows a batch over
all hosts.
"""

import abc
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from moe.config import Registry
from moe.workloads.multitask.data import rows
from moe.workloads.multitask.data.rows import Rows
from moe.workloads.multitask.targets import Target

SOURCES = Registry('source of rows')


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a model is made for: the tasks, and what a row is of.

    Attributes:
      targets: the tasks, in order.
      num_numeric: F.
      tables: ids of each table of categories, 0 among them, by name.
      table_of: table of each of the C categorical columns.
    """

    targets: tuple[Target, ...]
    num_numeric: int
    tables: Mapping[str, int] = dataclasses.field(default_factory=dict)
    table_of: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Data:
    """Rows to train on, to validate on and to test on, none shared.

    Attributes:
      inputs: what a model of these rows is made for.
      train: 'numeric', float32 [N, F], 'categorical', int32 [N, C] where
        there are any, 'label', float32 [N, T], 'mask', bool [N, T], the labels
        there are, and 'user', int32 [N], where users are told apart; None for
        an endless stream of rows.
      val: rows to validate on, as `train` holds them.
      test: rows to test on, as `train` holds them; {} where none are kept.
      fingerprint: a hash of the rows, by which runs on other rows are known.
    """

    inputs: Inputs
    train: Rows | None
    val: Rows
    test: Rows
    fingerprint: str

    def train_batches(
        self, batch_size: int, seed: int, host: int = 0, num_hosts: int = 1
    ) -> Any:
        """Makes an endless iterator over shuffled batches.

        Batch t is the same set of rows on any number of hosts, and the
        iterator's state, `{"next_index": t}`, is the same on all of them.

        Args:
          batch_size: B.
          seed: seed of the order.
          host: index of this host.
          num_hosts: number of hosts.

        Returns:
          An iterator over dictionaries of B / num_hosts rows each, with
          'valid', bool, beside what `train` holds.
        """
        assert self.train is not None, 'a stream has batches of its own'
        return rows.train_batches(self.train, batch_size, seed, host, num_hosts)

    def sizes(self) -> dict[str, Any]:
        """Returns what tells two sets of rows apart, as JSON."""
        count = lambda part: rows.num_rows(part) if part else 0
        return {
            'train_rows': count(self.train),
            'val_rows': count(self.val),
            'test_rows': count(self.test),
            'fingerprint': self.fingerprint,
        }

    def save(self, workdir: pathlib.Path) -> None:
        """Writes into a run's folder what `Source.restore` reads there.

        Args:
          workdir: the run's folder.
        """


@dataclasses.dataclass(frozen=True)
class Source(abc.ABC):
    """Where rows come from.

    Subclasses are frozen dataclasses, registered in `SOURCES`; their fields
    are the options of the section `data.source`.
    """

    @property
    @abc.abstractmethod
    def num_tasks(self) -> int:
        """T."""

    @abc.abstractmethod
    def load(self, batch_size: int) -> Data:
        """Reads or draws the rows.

        Args:
          batch_size: B, which the training rows must be enough for.

        Raises:
          ConfigError: for whatever cannot be used, in one line.
        """

    def inputs(self) -> Inputs | None:
        """Returns what a model is made for, None where only rows tell it."""
        return None

    def restore(self, workdir: pathlib.Path) -> Inputs:
        """Returns what a finished run's model was made for.

        Args:
          workdir: the run's folder, with what `Data.save` wrote there.

        Raises:
          ConfigError: if the run has not begun.
        """
        inputs = self.inputs()
        if inputs is None:
            raise NotImplementedError(f'{type(self).__name__}.restore')
        return inputs
